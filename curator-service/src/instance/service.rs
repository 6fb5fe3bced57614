//! The service: it wires election and listener together and watches over their tasks.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::{BootClock, Clock};
use curator_election::store::Store;
use curator_election::{ElectionStatus, Elector, ElectorConfig, ElectorError, LivenessProbe, Reason, Term};
use curator_listener::{DescriptorError, ListenError, Listener, ListenerConfig, ListenerHandle, Services, Tls};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::certificate::OwnCertificate;
use crate::auth::{Authenticator, Authorized, RejectAll};
use crate::config::{Config, ConfigError};
use crate::consensus::ConsensusStatus;
use crate::instance::admin_api::InstanceService;
use crate::instance::candidacy::{Candidacy, Verdict};
use crate::instance::certificates::{membership, renewal, second};
use crate::instance::local_api::CuratorLocalService;
use crate::instance::node_report::Reporter;
use crate::instance::reach::{Dial, Reach};
use crate::instance::role::Roles;
use crate::instance::role_history::RoleHistory;
use crate::instance::tasks::{Ended, Supervisor};
use crate::instance::{candidacy, node_report, readiness, role, watchdog};
use crate::leader::{ConsensusForwarders, Leader, LeaderContext, LeaderHandle};
use crate::state::export::unfinished;
use crate::state::fenced::Fenced;
use crate::status::{CandidateConfig, LeaderStatus};
use crate::status_page::term_history::TermHistory;
use crate::status_page::{StatusServer, StatusSources};
use crate::step_down::{ElectorSlot, StepDownCoordinator, handing_over};
use crate::{step_down, telemetry};

/// One instance of the Curator.
pub struct Service {
    config: Config,
    /// Outlives the elector, which begins only once the consensus runs.
    status: watch::Sender<LeaderStatus>,
    listener: watch::Sender<Option<ListenerHandle>>,
}

/// Asks an instance whether it is alive where it serves.
#[derive(Clone)]
pub struct Liveness(watch::Receiver<Option<ListenerHandle>>);

impl Liveness {
    /// Completes once each thread that serves connections has done something that was asked of it: never before they serve, nor
    /// after they have ended, nor while one of them is blocked. Cancellation safe.
    pub async fn responds(&self) {
        let mut listener = self.0.clone();
        let begun = listener.wait_for(Option::is_some).await.map(|begun| begun.clone());
        match begun {
            Ok(Some(listener)) => listener.responds().await,
            // It has never begun, and never will.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Why an instance ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The listener cannot be opened, or broke.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The descriptors of the leader's services are none.
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
    /// The elector cannot be made.
    #[error(transparent)]
    Elector(#[from] ElectorError),
    /// The address for those who look at the instance cannot be listened on.
    #[error("cannot listen on {listen} for metrics and the status page: choose another address, or none: {source}")]
    Observe {
        /// The address.
        listen: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A task ended by itself; the instance ended with it rather than go on without.
    #[error("{0}")]
    Task(String),
}

impl Service {
    /// An instance. Nothing is started.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            status: watch::Sender::new(ElectionStatus::Undetermined(Reason::Starting)),
            listener: watch::Sender::new(None),
        })
    }

    /// Asks this instance whether it is alive, before and while it runs.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        Liveness(self.listener.subscribe())
    }

    /// What this instance knows of the election, before and while it runs.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LeaderStatus> {
        self.status.subscribe()
    }

    /// Runs until cancelled. Then it reports that it is not to be called; if it leads, answers what it is running, steps down
    /// and waits for the next leader; ends the calls under way within [`grace`](Config::grace); and leaves the election.
    ///
    /// Not cancellation safe: when the future is dropped, the tasks are dropped with it and the lease runs out by itself.
    ///
    /// # Errors
    /// The listener cannot be opened, or a task ended or panicked that should have gone on.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), ServiceError> {
        let Self {
            config,
            status,
            listener: told,
        } = self;
        let (role_sender, roles) = watch::channel(role::role(&status.borrow()));
        let (seat, leader) = watch::channel(None);
        let mut limits = listener_limits(&config);
        limits.tls = config.credentials.as_ref().map(|credentials| Tls {
            server: credentials.server(),
            to_leader: Arc::new(OwnCertificate(credentials.clone())),
            forwarders: Arc::new(ConsensusForwarders::new(leader.clone(), credentials.clone())),
        });
        let hand_over_limit = limits.drain_limit;
        let listener = Listener::bind(config.listen.iter().copied(), limits)?;
        let advertise = match (&config.advertise, listener.addresses().first()) {
            (Some(address), _) => address.clone(),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        };
        let observatory = config
            .observe
            .as_ref()
            .map(|observe| {
                let listen = observe.listen;
                StatusServer::bind(observe).map_err(|source| ServiceError::Observe { listen, source })
            })
            .transpose()?;
        info!(
            node_id = config.node_id,
            observe = observatory.as_ref().map(|observatory| observatory.address().to_string()),
            listen = ?listener.addresses(),
            advertise,
            election_prefix = config.election_prefix,
            leader_ttl = ?config.effective_ttl(),
            "starting"
        );

        // A child, so that a task that fails ends this instance and not its caller.
        let cancel = cancel.child_token();
        // The listener goes before the election: until the last call is answered it wants to know who leads.
        let (listener_cancel, rest_cancel) = (CancellationToken::new(), CancellationToken::new());
        let elector = ElectorSlot::default();
        let mut tasks = Supervisor::new(cancel.clone());
        let history = RoleHistory::new(BootClock.now());
        let candidate = CandidateConfig::new(
            config.node_id.clone(),
            config.election_prefix.clone(),
            config.effective_ttl(),
            advertise.clone(),
        );
        let terms = TermHistory::default();
        tasks.spawn("role log", {
            let (history, terms, own_id) = (history.clone(), terms.clone(), config.node_id.clone());
            let (status, serving) = (status.subscribe(), listener.handle().serving());
            log_roles(status, serving, history, (own_id, terms), rest_cancel.clone())
        });
        let ready = watch::Sender::new(false);
        tasks.spawn("readiness", {
            let (serving, leader, cancel) = (listener.handle().serving(), leader.clone(), rest_cancel.clone());
            let ready = ready.clone();
            async move {
                readiness::follow(serving, leader, ready, cancel).await;
                Ok(())
            }
        });
        if let (Some(observatory), Some(observe)) = (observatory, &config.observe) {
            let site = StatusSources {
                node_id: config.node_id.clone(),
                status: status.subscribe(),
                ready: ready.subscribe(),
                terms: terms.clone(),
                credentials: config.credentials.clone(),
                metrics: observe.metrics.clone(),
                foreign: {
                    let consensus = config.consensus.clone();
                    Arc::new(move || consensus.foreign_endpoints())
                },
            };
            let (cancel, listen) = (rest_cancel.clone(), observe.listen);
            tasks.spawn("observatory", async move {
                let ended = observatory.run(site, cancel).await;
                ended.map_err(|source| ServiceError::Observe { listen, source })
            });
        }
        tasks.spawn("consensus", {
            let (consensus, cancel) = (config.consensus.clone(), rest_cancel.clone());
            async move {
                consensus.run(cancel).await;
                Ok(())
            }
        });
        let (listener_done, listener_ended) = oneshot::channel::<()>();
        let (handle, watched_leader) = (listener.handle(), leader.clone());
        let listener_handle = listener.handle();
        told.send_replace(Some(handle.clone()));
        if let Some(credentials) = config.credentials.clone() {
            let (ending, cancel) = (cancel.clone(), rest_cancel.clone());
            let consensus = config.consensus.status();
            let own = listener.addresses().first().copied().map(node_report::dialled);
            tasks.spawn("credentials", async move {
                let renewing = async {
                    // It calls this instance, so it ends before the rest.
                    if let Some(own) = own {
                        renewal::run(credentials.clone(), own, ending).await;
                    }
                };
                tokio::join!(
                    renewing,
                    credentials.run(cancel.clone()),
                    second::run(credentials.clone(), consensus.clone(), cancel.clone()),
                    membership::run(credentials.clone(), consensus, cancel)
                );
                Ok(())
            });
        }
        let (office, step_downs) =
            StepDownCoordinator::new(candidate.clone(), config.consensus.status(), status.subscribe());
        let (reach, unreached_by) = Reach::new(candidate.clone(), Arc::new(Dial::new(config.credentials.clone())));
        tasks.spawn("reach", {
            let (consensus, status) = (config.consensus.status(), status.subscribe());
            let (terms, office, cancel) = (terms.clone(), office.clone(), rest_cancel.clone());
            async move {
                reach.run(consensus, status, terms, office, cancel).await;
                Ok(())
            }
        });
        if let (true, Some(credentials), Some(listen)) =
            (config.report_node, &config.credentials, listener.addresses().first())
        {
            let (node_id, consensus) = (config.node_id.clone(), config.consensus.status());
            let reporter = Reporter::new(node_id, credentials.clone(), consensus, *listen, &advertise);
            // It calls this instance, so it ends before the rest.
            let (stop, rest) = (cancel.clone(), rest_cancel.clone());
            tasks.spawn("report", async move {
                reporter.run(stop).await;
                rest.cancelled().await;
                Ok(())
            });
        }
        tasks.spawn("leader", {
            let context = LeaderContext {
                node_id: config.node_id.clone(),
                membership: config.consensus.membership(),
                succession: config.credentials.is_some().then(|| office.clone()),
                limits: config.state_limits,
                clock: Arc::new(BootClock),
                wall: curator_identity::wall_clock,
            };
            let (status, consensus) = (status.subscribe(), config.consensus.status());
            lead(status, consensus, context, seat, rest_cancel.clone())
        });
        tasks.spawn("hand-over", {
            let (handle, elector, cancel) = (listener.handle(), elector.clone(), rest_cancel.clone());
            async move {
                step_down::hand_over(step_downs, &handle, &elector, hand_over_limit, cancel.clone()).await;
                // Those who ask go with the listener.
                cancel.cancelled().await;
                Ok(())
            }
        });
        tasks.spawn("listener", {
            let local = CuratorLocalService::new(
                config.node_id.clone(),
                advertise,
                config.consensus.status(),
                status.subscribe(),
                listener_cancel.clone(),
            );
            let consensus = config.consensus.clone();
            let log_filter = config.log_filter.clone();
            let instance = InstanceService::new(
                candidate.clone(),
                consensus,
                status.subscribe(),
                (history, terms),
                log_filter,
            )
            .unreached_by(unreached_by);
            let services = services(&config, local, instance, office, leader)?;
            let cancel = listener_cancel.clone();
            async move {
                let ended = listener.run(Roles(roles), services, cancel).await;
                drop(listener_done);
                Ok(ended?)
            }
        });
        tasks.spawn("roles", {
            let (status, cancel) = (status.subscribe(), rest_cancel.clone());
            let consensus = config.consensus.status();
            async move {
                role::translate(status, consensus, role_sender).await;
                // The status ends with the election task, whose end is noticed there.
                cancel.cancelled().await;
                Ok(())
            }
        });
        let liveness = LivenessProbe::new(Arc::new(BootClock), config.effective_stuck_after());
        tasks.spawn("watchdog", {
            let (liveness, listener, cancel) = (liveness.clone(), handle.clone(), rest_cancel.clone());
            async move {
                watchdog::watch_over(liveness, listener, watched_leader, cancel).await;
                Ok(())
            }
        });
        tasks.spawn("shutdown", {
            let (cancel, elector, rest) = (cancel.clone(), elector.clone(), rest_cancel.clone());
            async move {
                cancel.cancelled().await;
                handle.unready();
                handing_over::hand_over(&handle, &elector, hand_over_limit, None).await;
                listener_cancel.cancel();
                // Its end, however it comes.
                let _ = listener_ended.await;
                rest.cancel();
                Ok(())
            }
        });
        let verdict = config.credentials.as_ref().map(|credentials| {
            let candidacy = Candidacy {
                node_id: config.node_id.clone(),
                authority: credentials.newest().ca().to_vec(),
                membership: config.consensus.membership(),
            };
            let (sender, verdict) = watch::channel(Verdict::Unknown);
            let (consensus, cancel) = (config.consensus.status(), rest_cancel.clone());
            tasks.spawn("candidacy", async move {
                candidacy.run(consensus, sender, cancel).await;
                Ok(())
            });
            verdict
        });
        let candidate = Candidate {
            candidate,
            liveness,
            listener: listener_handle,
            slot: elector,
            verdict,
        };
        tasks.spawn("election", elect(config, candidate, status, rest_cancel));
        tasks.join().await.map_err(|ended| match ended {
            Ended::Failed { source, .. } => source,
            other => ServiceError::Task(other.to_string()),
        })
    }
}

/// The listener's limits: all of its part of a shutdown within the grace.
fn listener_limits(config: &Config) -> ListenerConfig {
    let mut limits = ListenerConfig::default().hold_for_ttl(config.effective_ttl());
    if let Some(cap) = config.hold_cap {
        limits.hold_cap = cap;
    }
    limits.hold_limit = config.hold_limit;
    limits.max_connections = config.max_connections;
    limits.max_connections_per_peer = config.max_connections_per_peer;
    limits.max_connection_age = config.max_connection_age;
    limits.threads = config.threads;
    // A quarter to drain, a quarter to find the next leader, the rest to answer what is left.
    limits.drain_limit = limits.drain_limit.min(config.grace / 4);
    limits.grace = config.grace - limits.drain_limit * 2;
    limits
}

/// What is served: `CuratorLocal` and `Instance` here, and the rest by the leader.
fn services(
    config: &Config,
    local: CuratorLocalService,
    instance: InstanceService,
    office: StepDownCoordinator,
    leader: watch::Receiver<Option<Arc<Leader>>>,
) -> Result<Services, DescriptorError> {
    let added = config.leader_services.clone();
    let authenticator: Arc<dyn Authenticator> = match (&config.authenticator, &config.credentials) {
        (Some(authenticator), _) => authenticator.clone(),
        (None, Some(credentials)) => Arc::new(credentials.clone()),
        (None, None) => Arc::new(RejectAll),
    };
    let instance = instance.into_server(authenticator.clone());
    let services = Services::new(move |term| {
        let seat = LeaderHandle::new(leader.clone(), term.term.clone());
        let leadership = office.clone().service(term.term.clone());
        let leadership = Authorized::new(leadership, authenticator.clone(), seat.clone());
        added(term, seat.routes(&authenticator).add_service(leadership))
    })
    .local(local.into_server())
    .local(instance)
    .describe(curator_proto::FILE_DESCRIPTOR_SET)?;
    config
        .leader_descriptors
        .iter()
        .try_fold(services, |services, descriptors| services.describe(descriptors))
}

/// Does the leader's work in each term that this instance leads in, until cancelled.
async fn lead(
    mut status: watch::Receiver<LeaderStatus>,
    consensus: watch::Receiver<ConsensusStatus>,
    context: LeaderContext,
    seat: watch::Sender<Option<Arc<Leader>>>,
    cancel: CancellationToken,
) -> Result<(), ServiceError> {
    let mut last = None;
    loop {
        let term = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            term = next_term(&mut status, last.as_ref()) => term,
        };
        let store = match &*consensus.borrow() {
            ConsensusStatus::Running(store) => Some(store.clone()),
            ConsensusStatus::NotRunning { .. } => None,
        };
        // The status ends with the election task, whose end is noticed there; and nobody leads without a store.
        let (Some(term), Some(store)) = (term, store) else {
            cancel.cancelled().await;
            return Ok(());
        };
        last = Some(term.clone());
        let leader = Leader::new(Fenced::new(store, term.clone()), context.clone());
        seat.send_replace(Some(leader.clone()));
        tokio::select! {
            () = leader.run() => {}
            () = cancel.cancelled() => {}
        }
        seat.send_replace(None);
    }
}

/// The next term that this instance leads in, other than the last one; `None` if there will be none.
async fn next_term(status: &mut watch::Receiver<LeaderStatus>, last: Option<&Term>) -> Option<Term> {
    let is_next = |status: &LeaderStatus| matches!(status, ElectionStatus::Leader(term) if Some(term) != last);
    match &*status.wait_for(is_next).await.ok()? {
        ElectionStatus::Leader(term) => Some(term.clone()),
        ElectionStatus::Undetermined(_) | ElectionStatus::Follower(_) => None,
    }
}

/// What an instance stands for election with.
struct Candidate {
    candidate: Arc<CandidateConfig>,
    liveness: LivenessProbe,
    listener: ListenerHandle,
    slot: ElectorSlot,
    /// Whether its node may lead; `None` if it has no node's certificate.
    verdict: Option<watch::Receiver<Verdict>>,
}

/// Waits for the consensus, then takes part in the election until cancelled: as a candidate while it may lead.
async fn elect(
    config: Config,
    candidate: Candidate,
    status: watch::Sender<LeaderStatus>,
    cancel: CancellationToken,
) -> Result<(), ServiceError> {
    let Candidate {
        candidate,
        liveness,
        listener,
        slot,
        mut verdict,
    } = candidate;
    let Some(store) = running_store(config.consensus.status(), &status, &cancel).await else {
        return Ok(());
    };
    if cancel
        .run_until_cancelled(unfinished::until_gone(&*store, &status))
        .await
        .is_none()
    {
        return Ok(());
    }
    let backend = Arc::new(candidate.election(store));
    while !cancel.is_cancelled() {
        if let Some(verdict) = &mut verdict {
            let following = candidacy::follow(&*backend, &config.node_id, candidate.ttl, &status, verdict);
            if cancel.run_until_cancelled(following).await.is_none() {
                break;
            }
        }
        let elector = Elector::new(
            backend.clone(),
            &candidate.value,
            ElectorConfig {
                ttl: candidate.ttl,
                liveness: Some(liveness.clone()),
                ..ElectorConfig::default()
            },
        )?;
        let elector = elector.publish_to(status.clone());
        slot.set(Some(elector.handle()));
        let stands = cancel.child_token();
        let mut running = pin!(elector.run(stands.clone()));
        tokio::select! {
            () = &mut running => {}
            () = candidacy::barred(verdict.as_mut()) => {
                let leaving = async {
                    // Of a leader: what it is running is answered first, and what is new waits for the next one.
                    listener.drain().await;
                    stands.cancel();
                };
                tokio::join!(running, leaving);
            }
        }
        slot.set(None);
    }
    status.send_replace(ElectionStatus::Undetermined(Reason::ElectorGone));
    Ok(())
}

/// The store, once the consensus runs; `None` if cancelled before. Why it does not run is published as the reason meanwhile.
async fn running_store(
    mut consensus: watch::Receiver<ConsensusStatus>,
    status: &watch::Sender<LeaderStatus>,
    cancel: &CancellationToken,
) -> Option<Arc<dyn Store>> {
    let mut asked = false;
    loop {
        match &*consensus.borrow_and_update() {
            ConsensusStatus::Running(store) => return Some(store.clone()),
            // The first one only says that nobody has been asked yet.
            ConsensusStatus::NotRunning { reason } if asked => {
                let reason = Reason::OpenFailed {
                    word: "not_running",
                    error: reason.clone(),
                };
                status.send_replace(ElectionStatus::Undetermined(reason));
            }
            ConsensusStatus::NotRunning { reason } => info!(%reason, "waiting for the consensus"),
        }
        asked = true;
        tokio::select! {
            () = cancel.cancelled() => return None,
            changed = consensus.changed() => if changed.is_err() {
                warn!("the consensus is gone for good");
                return None;
            }
        }
    }
}

/// From when on a leader that does not answer counts as none.
const SILENCE: Duration = Duration::from_secs(1);

/// Logs and counts each change of role. `watch` keeps only the newest, so a role that lasted no time at all may be left out.
async fn log_roles(
    mut status: watch::Receiver<LeaderStatus>,
    mut serving: watch::Receiver<bool>,
    history: RoleHistory,
    (own_id, terms): (String, TermHistory),
    cancel: CancellationToken,
) -> Result<(), ServiceError> {
    let note = |status: &LeaderStatus| {
        let now = BootClock.now();
        let changed = history.note(status, now);
        if let Some(leaderless) = terms.note(&own_id, status, now) {
            metrics::histogram!(telemetry::LEADERLESS_SECONDS).record(leaderless.as_secs_f64());
        }
        // The reason may be another one; what a leader says of itself beside is no news.
        if changed || matches!(status, ElectionStatus::Undetermined(_)) {
            log_role(status);
        }
    };
    loop {
        note(&status.borrow_and_update());
        let silence = terms.reached(*serving.borrow_and_update(), BootClock.now());
        // A connection to a new leader takes a moment, which is no silence.
        if let Some(silence) = silence.filter(|silence| *silence >= SILENCE) {
            metrics::histogram!(telemetry::LEADERLESS_SECONDS).record(silence.as_secs_f64());
        }
        tokio::select! {
            changed = async { tokio::select! {
                changed = status.changed() => changed,
                Ok(()) = serving.changed() => Ok(()),
            }} => {
                if changed.is_err() {
                    cancel.cancelled().await;
                    return Ok(());
                }
            }
            () = cancel.cancelled() => {
                // The last word is the one after resigning.
                while status.changed().await.is_ok() {
                    note(&status.borrow_and_update());
                }
                return Ok(());
            }
        }
    }
}

fn log_role(status: &LeaderStatus) {
    match status {
        ElectionStatus::Undetermined(reason) => {
            info!(target: "curator::role", role = "undetermined", %reason, "role changed");
        }
        ElectionStatus::Follower(following) => info!(
            target: "curator::role",
            role = "follower",
            leader = following.leader.node_id,
            leader_address = following.leader.advertised_addresses.first().map_or("", String::as_str),
            lock_key = %String::from_utf8_lossy(&following.key),
            lock_revision = following.revision.0,
            "role changed"
        ),
        ElectionStatus::Leader(term) => info!(
            target: "curator::role",
            role = "leader",
            lock_key = %String::from_utf8_lossy(term.lock_key()),
            lock_revision = term.lock_revision().0,
            "role changed"
        ),
    }
}
