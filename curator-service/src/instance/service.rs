//! The service: connects the election and the listener, and supervises the tasks of an instance.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curator_election::backoff::Backoff;
use curator_election::clock::{BootClock, Clock};
use curator_election::store::{Revision, Store};
use curator_election::{ElectionStatus, Elector, ElectorConfig, ElectorError, LivenessProbe, Reason};
use curator_identity::CredentialsWatch;
use curator_listener::{
    DescriptorError, LeaderFailure, LeaderSuspected, LeaderTerm, ListenError, Listener, ListenerConfig, ListenerHandle,
    Role, Services, TermId, Tls,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::certificate::OwnCertificate;
use crate::auth::{Authenticator, RejectAll};
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
use crate::instance::terms::{TermFactory, TermRoutes};
use crate::instance::{candidacy, node_report, readiness, role, watchdog};
use crate::leader::{ConsensusForwarders, Leader, LeaderContext};
use crate::state::export::unfinished;
use crate::status::{CandidateConfig, LeaderStatus};
use crate::status_page::term_history::TermHistory;
use crate::status_page::{Observe, StatusServer, StatusSources};
use crate::step_down::{ElectorSlot, HandOver, StepDownCoordinator, handing_over};
use crate::{step_down, telemetry};

/// One instance of the Curator.
pub struct Service {
    config: Config,
    /// Exists before the elector, which starts only once the consensus runs.
    status: watch::Sender<LeaderStatus>,
    listener: watch::Sender<Option<ListenerHandle>>,
}

/// Checks whether the threads that serve connections respond.
#[derive(Clone)]
pub struct Liveness(watch::Receiver<Option<ListenerHandle>>);

impl Liveness {
    /// Completes once each thread that serves connections has responded. Never completes before the threads serve,
    /// after they have ended, or while one of them is blocked. Cancellation safe.
    pub async fn responds(&self) {
        let mut listener = self.0.clone();
        let begun = listener.wait_for(Option::is_some).await.map(|begun| begun.clone());
        match begun {
            Ok(Some(listener)) => listener.responds().await,
            // The listener will never start.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Why an instance ended without being cancelled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The listener cannot be opened, or has failed.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The descriptors of the leader's services are invalid.
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
    /// The elector's configuration is invalid.
    #[error(transparent)]
    Elector(#[from] ElectorError),
    /// The metrics and status server cannot listen, or has failed.
    #[error("cannot serve metrics and the status page on {listen}: {source}; choose another address or disable it")]
    Observe {
        /// The address.
        listen: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// A task ended unexpectedly, and the instance with it.
    #[error("{0}")]
    Task(String),
}

impl Service {
    /// An instance, which is not started yet.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            status: watch::Sender::new(ElectionStatus::Undetermined(Reason::Starting)),
            listener: watch::Sender::new(None),
        })
    }

    /// A liveness check of this instance, which may be used before it runs.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        Liveness(self.listener.subscribe())
    }

    /// The election status of this instance, which may be used before it runs.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LeaderStatus> {
        self.status.subscribe()
    }

    /// Runs until cancelled. Then it reports that it is not ready; if it leads, finishes the calls under way, steps
    /// down and waits for the next leader; ends the remaining calls within [`grace`](Config::grace); and leaves the
    /// election.
    ///
    /// Not cancellation safe: when the future is dropped, the tasks are dropped too and the lease expires.
    ///
    /// # Errors
    /// The listener cannot be opened, or a task ended unexpectedly or panicked.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), ServiceError> {
        let Self {
            config,
            status,
            listener: published,
        } = self;
        let (role_sender, roles) = watch::channel(Role::Undetermined {
            reason: role::public_reason(&Reason::Starting),
        });
        let (leader_sender, leader) = watch::channel(None);
        let elector = ElectorSlot::default();
        let limits = listener_limits(&config, &leader, &elector);
        let hand_over_limit = limits.drain_limit;
        let listener = Listener::bind(config.listen.iter().copied(), limits)?;
        let status_server = bind_status_server(&config)?;
        let address = listener.addresses().first().copied();
        let advertise = match (&config.advertise, address) {
            (Some(advertise), _) => advertise.clone(),
            (None, address) => address.map(|address| address.to_string()).unwrap_or_default(),
        };
        info!(
            node_id = config.node_id,
            observe = status_server.as_ref().map(|server| server.address().to_string()),
            listen = ?listener.addresses(),
            advertise,
            election_prefix = config.election_prefix,
            leader_ttl = ?config.effective_ttl(),
            failover_limit = config.effective_failover_limit().map(tracing::field::debug),
            "starting"
        );
        let candidate = CandidateConfig::new(
            config.node_id.clone(),
            config.election_prefix.clone(),
            config.effective_ttl(),
            config.effective_failover_limit(),
            advertise.clone(),
        );
        let (coordinator, step_downs) = StepDownCoordinator::new(candidate.clone(), config.consensus.status());
        let (reach, unreached_by) = Reach::new(candidate.clone(), Arc::new(Dial::new(config.credentials.clone())));
        let instance = Arc::new(Running {
            candidate,
            status: status.subscribe(),
            leader,
            ready: watch::Sender::new(false),
            listener: listener.handle(),
            address,
            advertise,
            hand_over_limit,
            history: RoleHistory::new(BootClock.now()),
            terms: TermHistory::default(),
            liveness: LivenessProbe::new(Arc::new(BootClock), config.effective_stuck_after()),
            elector,
            coordinator,
            has_served: Arc::default(),
            // A child, so that a task that fails ends this instance and not its caller.
            cancel: cancel.child_token(),
            listener_cancel: CancellationToken::new(),
            rest_cancel: CancellationToken::new(),
            config,
        });
        let services = instance.services(unreached_by)?;
        published.send_replace(Some(instance.listener.clone()));
        let (listener_done, listener_ended) = oneshot::channel();

        let mut tasks = Supervisor::new(instance.cancel.clone());
        let of = || instance.clone();
        tasks.spawn("role log", of().log_roles());
        tasks.spawn("readiness", of().follow_readiness());
        tasks.spawn("consensus", of().run_consensus());
        tasks.spawn("reach", of().check_reach(reach));
        tasks.spawn("hand-over", of().hand_over(step_downs));
        tasks.spawn("listener", of().listen(listener, roles, services, listener_done));
        tasks.spawn("roles", of().publish_roles(role_sender, leader_sender));
        tasks.spawn("watchdog", of().watch_liveness());
        tasks.spawn("shutdown", of().shut_down(listener_ended));
        if let Some((server, observe)) = status_server.zip(instance.config.observe.clone()) {
            tasks.spawn("observatory", of().serve_status(server, observe));
        }
        if let Some(credentials) = instance.config.credentials.clone() {
            tasks.spawn("credentials", of().maintain_credentials(credentials));
        }
        if let Some(reporter) = instance.reporter() {
            tasks.spawn("report", of().report_node(reporter));
        }
        let verdict = instance.candidacy().map(|candidacy| {
            let (sender, verdict) = watch::channel(Verdict::Unknown);
            tasks.spawn("candidacy", of().check_candidacy(candidacy, sender));
            verdict
        });
        tasks.spawn("election", of().elect(status, verdict));
        tasks.join().await.map_err(|ended| match ended {
            Ended::Failed { source, .. } => source,
            other => ServiceError::Task(other.to_string()),
        })
    }
}

/// The parts of a running instance that its tasks share.
struct Running {
    config: Config,
    candidate: Arc<CandidateConfig>,
    status: watch::Receiver<LeaderStatus>,
    /// The leader, in each term that this instance leads.
    leader: watch::Receiver<Option<Arc<Leader>>>,
    ready: watch::Sender<bool>,
    listener: ListenerHandle,
    /// The first listen address.
    address: Option<SocketAddr>,
    advertise: String,
    hand_over_limit: Duration,
    history: RoleHistory,
    terms: TermHistory,
    liveness: LivenessProbe,
    elector: ElectorSlot,
    coordinator: StepDownCoordinator,
    /// Whether a term of this instance has begun with all of its services since it last stepped down without.
    has_served: Arc<AtomicBool>,
    /// Starts the shutdown.
    cancel: CancellationToken,
    /// Ends the listener, after the handover.
    listener_cancel: CancellationToken,
    /// Ends all other tasks, after the listener: until its last call ends, the listener needs to know the leader.
    rest_cancel: CancellationToken,
}

/// The tasks of an instance: each runs until its token is cancelled.
impl Running {
    async fn follow_readiness(self: Arc<Self>) -> Result<(), ServiceError> {
        let (serving, leader) = (self.listener.serving(), self.leader.clone());
        readiness::follow(serving, leader, self.ready.clone(), self.rest_cancel.clone()).await;
        Ok(())
    }

    async fn serve_status(self: Arc<Self>, server: StatusServer, observe: Observe) -> Result<(), ServiceError> {
        let sources = StatusSources {
            node_id: self.config.node_id.clone(),
            status: self.status.clone(),
            ready: self.ready.subscribe(),
            terms: self.terms.clone(),
            credentials: self.config.credentials.clone(),
            metrics: observe.metrics,
            foreign: {
                let consensus = self.config.consensus.clone();
                Arc::new(move || consensus.foreign_endpoints())
            },
        };
        let listen = observe.listen;
        let ended = server.run(sources, self.rest_cancel.clone()).await;
        ended.map_err(|source| ServiceError::Observe { listen, source })
    }

    async fn run_consensus(self: Arc<Self>) -> Result<(), ServiceError> {
        self.config.consensus.run(self.rest_cancel.clone()).await;
        Ok(())
    }

    async fn maintain_credentials(self: Arc<Self>, credentials: CredentialsWatch) -> Result<(), ServiceError> {
        let cancel = || self.rest_cancel.clone();
        let consensus = || self.config.consensus.status();
        let renewing = async {
            // It calls this instance, so it ends before the listener.
            if let Some(own) = self.address.map(node_report::dialled) {
                renewal::run(credentials.clone(), own, self.cancel.clone()).await;
            }
        };
        tokio::join!(
            renewing,
            credentials.run(cancel()),
            second::run(credentials.clone(), consensus(), cancel()),
            membership::run(credentials.clone(), consensus(), cancel())
        );
        Ok(())
    }

    async fn check_reach(self: Arc<Self>, reach: Reach) -> Result<(), ServiceError> {
        let (consensus, status) = (self.config.consensus.status(), self.status.clone());
        let (terms, coordinator) = (self.terms.clone(), self.coordinator.clone());
        let cancel = self.rest_cancel.clone();
        reach.run(consensus, status, terms, coordinator, cancel).await;
        Ok(())
    }

    fn reporter(&self) -> Option<Reporter> {
        let credentials = self.config.credentials.clone().filter(|_| self.config.report_node)?;
        let (node_id, consensus) = (self.config.node_id.clone(), self.config.consensus.status());
        let listen = self.address?;
        Some(Reporter::new(node_id, credentials, consensus, listen, &self.advertise))
    }

    async fn report_node(self: Arc<Self>, reporter: Reporter) -> Result<(), ServiceError> {
        // It calls this instance, so it ends before the listener.
        reporter.run(self.cancel.clone()).await;
        self.rest_cancel.cancelled().await;
        Ok(())
    }

    async fn hand_over(self: Arc<Self>, requests: mpsc::Receiver<HandOver>) -> Result<(), ServiceError> {
        let (limit, cancel) = (self.hand_over_limit, self.rest_cancel.clone());
        step_down::hand_over(requests, &self.listener, &self.elector, limit, cancel).await;
        // The senders of requests end with the listener.
        self.rest_cancel.cancelled().await;
        Ok(())
    }

    /// The services of the listener: `CuratorLocal` and `Instance` locally, the others by the leader of each term.
    fn services(&self, unreached_by: watch::Receiver<Vec<String>>) -> Result<Services<TermRoutes>, DescriptorError> {
        let local = CuratorLocalService::new(
            self.config.node_id.clone(),
            self.advertise.clone(),
            self.config.consensus.status(),
            self.status.clone(),
            self.listener_cancel.clone(),
        );
        let instance = InstanceService::new(
            self.candidate.clone(),
            self.config.consensus.clone(),
            self.status.clone(),
            (self.history.clone(), self.terms.clone()),
            self.config.log_filter.clone(),
        )
        .unreached_by(unreached_by);
        // They are made where the term begins.
        let services = Services::with_factory(|term: &LeaderTerm<TermRoutes>| term.context.clone())
            .local(local.into_server())
            .local(instance.into_server(self.authenticator()))
            .describe(curator_proto::FILE_DESCRIPTOR_SET)?;
        let added = self.config.leader_services.descriptors().iter();
        added.copied().try_fold(services, Services::describe)
    }

    fn authenticator(&self) -> Arc<dyn Authenticator> {
        match (&self.config.authenticator, &self.config.credentials) {
            (Some(authenticator), _) => authenticator.clone(),
            (None, Some(credentials)) => Arc::new(credentials.clone()),
            (None, None) => Arc::new(RejectAll),
        }
    }

    async fn listen(
        self: Arc<Self>,
        listener: Listener,
        roles: watch::Receiver<Role<TermRoutes>>,
        services: Services<TermRoutes>,
        done: oneshot::Sender<()>,
    ) -> Result<(), ServiceError> {
        let ended = listener.run(Roles(roles), services, self.listener_cancel.clone()).await;
        drop(done);
        Ok(ended?)
    }

    /// Publishes the roles of this instance, and runs the leader of each of its terms.
    async fn publish_roles(
        self: Arc<Self>,
        roles: watch::Sender<Role<TermRoutes>>,
        leaders: watch::Sender<Option<Arc<Leader>>>,
    ) -> Result<(), ServiceError> {
        let has_credentials = self.config.credentials.is_some();
        let consensus = self.config.consensus.status();
        let terms = TermFactory {
            context: LeaderContext {
                node_id: self.config.node_id.clone(),
                membership: self.config.consensus.membership(),
                succession: has_credentials.then(|| self.coordinator.clone()),
                limits: self.config.state_limits,
                clock: Arc::new(BootClock),
                wall: curator_identity::wall_clock,
            },
            consensus: consensus.clone(),
            coordinator: self.coordinator.clone(),
            authenticator: self.authenticator(),
            added: self.config.leader_services.clone(),
            leaders: leaders.clone(),
            has_served: self.has_served.clone(),
        };
        role::publish_roles(self.status.clone(), consensus, roles, |term| terms.begin(term)).await;
        leaders.send_replace(None);
        // The status ends with the election task, whose end is detected there.
        self.rest_cancel.cancelled().await;
        Ok(())
    }

    async fn watch_liveness(self: Arc<Self>) -> Result<(), ServiceError> {
        let (liveness, listener, leader) = (self.liveness.clone(), self.listener.clone(), self.leader.clone());
        watchdog::run(liveness, listener, leader, self.rest_cancel.clone()).await;
        Ok(())
    }

    async fn shut_down(self: Arc<Self>, listener_ended: oneshot::Receiver<()>) -> Result<(), ServiceError> {
        self.cancel.cancelled().await;
        self.listener.unready();
        handing_over::hand_over(&self.listener, &self.elector, self.hand_over_limit, None).await;
        self.listener_cancel.cancel();
        // An error means that the sender was dropped: the listener has ended.
        let _ = listener_ended.await;
        self.rest_cancel.cancel();
        Ok(())
    }

    fn candidacy(&self) -> Option<Candidacy> {
        let credentials = self.config.credentials.as_ref()?;
        Some(Candidacy {
            node_id: self.config.node_id.clone(),
            authority: credentials.newest().ca().to_vec(),
            membership: self.config.consensus.membership(),
        })
    }

    async fn check_candidacy(
        self: Arc<Self>,
        candidacy: Candidacy,
        verdict: watch::Sender<Verdict>,
    ) -> Result<(), ServiceError> {
        let consensus = self.config.consensus.status();
        candidacy.run(consensus, verdict, self.rest_cancel.clone()).await;
        Ok(())
    }

    /// Waits for the consensus, then takes part in the election until cancelled: as a candidate while it may lead.
    ///
    /// Without a `verdict` it may always lead: there is no node's certificate.
    async fn elect(
        self: Arc<Self>,
        status: watch::Sender<LeaderStatus>,
        mut verdict: Option<watch::Receiver<Verdict>>,
    ) -> Result<(), ServiceError> {
        let (candidate, cancel) = (&self.candidate, &self.rest_cancel);
        let Some(store) = running_store(self.config.consensus.status(), &status, cancel).await else {
            return Ok(());
        };
        let importing = unfinished::until_gone(&*store, &status);
        if cancel.run_until_cancelled(importing).await.is_none() {
            return Ok(());
        }
        let backend = Arc::new(candidate.election(store));
        let mut backoff = Backoff::new(MIN_RETRY_INTERVAL, MAX_RETRY_INTERVAL, rand::random());
        // Why this instance could not serve in its last term.
        let mut failure: Option<LeaderFailure> = None;
        while !cancel.is_cancelled() {
            if let Some(failure) = failure.take() {
                if self.has_served.swap(false, Ordering::Relaxed) {
                    backoff.succeeded();
                }
                let wait = backoff.failed();
                let (node_id, ttl) = (&self.config.node_id, candidate.ttl);
                let following = candidacy::follow_for(wait, &failure.error, &*backend, node_id, ttl, &status);
                if cancel.run_until_cancelled(following).await.is_none() {
                    break;
                }
            }
            if let Some(verdict) = &mut verdict {
                let node_id = &self.config.node_id;
                let following = candidacy::follow(&*backend, node_id, candidate.ttl, &status, verdict);
                if cancel.run_until_cancelled(following).await.is_none() {
                    break;
                }
            }
            let config = ElectorConfig {
                ttl: candidate.ttl,
                failover_limit: candidate.failover_limit,
                liveness: Some(self.liveness.clone()),
                ..ElectorConfig::default()
            };
            let elector = Elector::new(backend.clone(), &candidate.value, config)?;
            let elector = elector.publish_to(status.clone());
            self.elector.set(Some(elector.handle()));
            let stands = cancel.child_token();
            let mut running = pin!(elector.run(stands.clone()));
            tokio::select! {
                () = &mut running => {}
                failed = self.listener.leader_failed() => {
                    warn!(%failed, "stepping down: this leader cannot serve");
                    failure = Some(failed);
                    stands.cancel();
                    running.await;
                }
                () = candidacy::barred(verdict.as_mut()) => {
                    let leaving = async {
                        // A leader finishes its calls first; new calls wait for the next leader.
                        self.listener.drain().await;
                        stands.cancel();
                    };
                    tokio::join!(running, leaving);
                }
            }
            self.elector.set(None);
        }
        status.send_replace(ElectionStatus::Undetermined(Reason::ElectorGone));
        Ok(())
    }

    /// Logs and counts each change of role. `watch` keeps only the newest status, so a very short role may be missed.
    async fn log_roles(self: Arc<Self>) -> Result<(), ServiceError> {
        let (mut status, mut serving) = (self.status.clone(), self.listener.serving());
        let note = |status: &LeaderStatus| {
            let now = BootClock.now();
            let changed = self.history.note(status, now);
            if let Some(leaderless) = self.terms.note(&self.config.node_id, status, now) {
                metrics::histogram!(telemetry::LEADERLESS_SECONDS).record(leaderless.as_secs_f64());
            }
            // Another reason is logged; another value of the same leader is not.
            if changed || matches!(status, ElectionStatus::Undetermined(_)) {
                log_role(status);
            }
        };
        loop {
            note(&status.borrow_and_update());
            let silence = self.terms.reached(*serving.borrow_and_update(), BootClock.now());
            // A connection to a new leader takes a moment, which is not counted.
            if let Some(silence) = silence.filter(|silence| *silence >= MIN_SILENCE) {
                metrics::histogram!(telemetry::LEADERLESS_SECONDS).record(silence.as_secs_f64());
            }
            tokio::select! {
                changed = async { tokio::select! {
                    changed = status.changed() => changed,
                    Ok(()) = serving.changed() => Ok(()),
                }} => {
                    if changed.is_err() {
                        self.rest_cancel.cancelled().await;
                        return Ok(());
                    }
                }
                () = self.rest_cancel.cancelled() => {
                    // The last status is the one after resigning.
                    while status.changed().await.is_ok() {
                        note(&status.borrow_and_update());
                    }
                    return Ok(());
                }
            }
        }
    }
}

/// The listener's configuration. Its part of a shutdown fits into the grace.
fn listener_limits(
    config: &Config,
    leader: &watch::Receiver<Option<Arc<Leader>>>,
    elector: &ElectorSlot,
) -> ListenerConfig {
    let mut limits = ListenerConfig::default().hold_for_ttl(config.effective_ttl());
    if let Some(cap) = config.hold_cap {
        limits.hold_cap = cap;
    }
    limits.hold_limit = config.hold_limit;
    limits.max_connections = config.max_connections;
    limits.max_connections_per_peer = config.max_connections_per_peer;
    limits.max_connection_age = config.max_connection_age;
    limits.threads = config.threads;
    if config.failover_limit.is_some() {
        let elector = elector.clone();
        let suspected = move |term: &TermId| elector.suspect(Revision(term.lock_revision));
        limits.leader_suspected = Some(LeaderSuspected::new(suspected));
    }
    // A quarter to drain, a quarter to find the next leader, the rest for the remaining calls.
    limits.drain_limit = limits.drain_limit.min(config.grace / 4);
    limits.grace = config.grace - limits.drain_limit * 2;
    limits.tls = config.credentials.as_ref().map(|credentials| Tls {
        server: credentials.server(),
        to_leader: Arc::new(OwnCertificate(credentials.clone())),
        forwarders: Arc::new(ConsensusForwarders::new(leader.clone(), credentials.clone())),
    });
    limits
}

fn bind_status_server(config: &Config) -> Result<Option<StatusServer>, ServiceError> {
    let Some(observe) = &config.observe else {
        return Ok(None);
    };
    let listen = observe.listen;
    let bound = StatusServer::bind(observe).map_err(|source| ServiceError::Observe { listen, source })?;
    Ok(Some(bound))
}

/// The store, as soon as the consensus runs; `None` if cancelled. Until then, the reason is published as the status.
async fn running_store(
    mut consensus: watch::Receiver<ConsensusStatus>,
    status: &watch::Sender<LeaderStatus>,
    cancel: &CancellationToken,
) -> Option<Arc<dyn Store>> {
    let mut waited = false;
    loop {
        match &*consensus.borrow_and_update() {
            ConsensusStatus::Running(store) => return Some(store.clone()),
            // The initial status only says that nothing was tried yet.
            ConsensusStatus::NotRunning { reason } if waited => {
                let reason = Reason::OpenFailed {
                    word: "not_running",
                    error: reason.clone(),
                };
                status.send_replace(ElectionStatus::Undetermined(reason));
            }
            ConsensusStatus::NotRunning { reason } => info!(%reason, "waiting for the consensus"),
        }
        waited = true;
        tokio::select! {
            () = cancel.cancelled() => return None,
            changed = consensus.changed() => if changed.is_err() {
                warn!("the consensus has ended");
                return None;
            }
        }
    }
}

/// How long an instance does not stand for election after its leader services failed to start. It doubles with each
/// failure.
const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(1);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A leader that does not respond for this long counts as missing.
const MIN_SILENCE: Duration = Duration::from_secs(1);

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
