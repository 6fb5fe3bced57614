//! The service: it wires election and listener together and watches over their tasks.

use std::sync::Arc;

use curator_election::store::Store;
use curator_election::{ElectionStatus, Elector, ElectorConfig, ElectorError, Reason, StoreElection};
use curator_listener::{ListenError, Listener};
use curator_proto::private::LeaderElectionValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::config::{Config, ConfigError};
use crate::consensus::ConsensusStatus;
use crate::local::CuratorLocalService;
use crate::supervise::{Ended, Supervisor};
use crate::wiring::{self, Roles};

/// What an instance of the Curator knows of its election.
pub type LeaderStatus = ElectionStatus<LeaderElectionValue>;

/// One instance of the Curator.
pub struct Service {
    config: Config,
    /// Outlives the elector, which begins only once the consensus runs.
    status: watch::Sender<LeaderStatus>,
}

/// Why an instance ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The listener cannot be opened, or broke.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The elector cannot be made.
    #[error(transparent)]
    Elector(#[from] ElectorError),
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
        })
    }

    /// What this instance knows of the election, before and while it runs.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LeaderStatus> {
        self.status.subscribe()
    }

    /// Runs until cancelled; then resigns, if it leads, and returns.
    ///
    /// Not cancellation safe: when the future is dropped, the tasks are dropped with it and the lease runs out by itself.
    ///
    /// # Errors
    /// The listener cannot be opened, or a task ended or panicked that should have gone on.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), ServiceError> {
        let Self { config, status } = self;
        let (role_sender, roles) = watch::channel(wiring::role(&status.borrow()));
        let listener = Listener::bind([config.listen], Roles(roles)).await?;
        let bound = listener.addresses().first().copied().unwrap_or(config.listen);
        let advertise = config.advertise.clone().unwrap_or_else(|| bound.to_string());
        info!(
            node_id = config.node_id,
            listen = %bound,
            advertise,
            election_prefix = config.election_prefix,
            leader_ttl = ?config.effective_ttl(),
            "starting"
        );

        // A child, so that a task that fails ends this instance and not its caller.
        let cancel = cancel.child_token();
        let mut tasks = Supervisor::new(cancel.clone());
        tasks.spawn("role log", log_roles(status.subscribe(), cancel.clone()));
        tasks.spawn("consensus", {
            let (consensus, cancel) = (config.consensus.clone(), cancel.clone());
            async move {
                consensus.run(cancel).await;
                Ok(())
            }
        });
        tasks.spawn("listener", {
            let local = CuratorLocalService::new(
                config.node_id.clone(),
                advertise.clone(),
                config.consensus.status(),
                status.subscribe(),
                cancel.clone(),
            );
            let cancel = cancel.clone();
            async move { Ok(listener.run(Routes::new(local.into_server()), cancel).await?) }
        });
        tasks.spawn("roles", {
            let (status, cancel) = (status.subscribe(), cancel.clone());
            async move {
                wiring::translate(status, role_sender).await;
                // The status ends with the election task, whose end is noticed there.
                cancel.cancelled().await;
                Ok(())
            }
        });
        tasks.spawn("election", elect(config, advertise, status, cancel.clone()));
        tasks.join().await.map_err(|ended| match ended {
            Ended::Failed { source, .. } => source,
            other => ServiceError::Task(other.to_string()),
        })
    }
}

/// Waits for the consensus, then takes part in the election until cancelled.
async fn elect(
    config: Config,
    advertise: String,
    status: watch::Sender<LeaderStatus>,
    cancel: CancellationToken,
) -> Result<(), ServiceError> {
    let Some(store) = running_store(config.consensus.status(), &cancel).await else {
        return Ok(());
    };
    let ttl = config.effective_ttl();
    let value = LeaderElectionValue {
        node_id: config.node_id.clone(),
        ttl: ttl.as_secs(),
        advertised_addresses: vec![advertise],
    };
    let backend = Arc::new(StoreElection::new(store, config.election_prefix, ttl / 3));
    let elector = Elector::new(
        backend,
        &value,
        ElectorConfig {
            ttl,
            ..ElectorConfig::default()
        },
    )?;
    elector.publish_to(status.clone()).run(cancel).await;
    status.send_replace(ElectionStatus::Undetermined(Reason::ElectorGone));
    Ok(())
}

/// The store, once the consensus runs; `None` if cancelled before.
async fn running_store(
    mut status: watch::Receiver<ConsensusStatus>,
    cancel: &CancellationToken,
) -> Option<Arc<dyn Store>> {
    if let ConsensusStatus::NotRunning { reason } = &*status.borrow() {
        info!(%reason, "waiting for the consensus");
    }
    tokio::select! {
        () = cancel.cancelled() => None,
        running = status.wait_for(|status| matches!(status, ConsensusStatus::Running(_))) => match running {
            Ok(status) => match &*status {
                ConsensusStatus::Running(store) => Some(store.clone()),
                ConsensusStatus::NotRunning { .. } => None,
            },
            Err(_) => {
                warn!("the consensus is gone for good");
                None
            }
        },
    }
}

/// Logs each change of role. `watch` keeps only the newest, so a role that lasted no time at all may be left out.
async fn log_roles(mut status: watch::Receiver<LeaderStatus>, cancel: CancellationToken) -> Result<(), ServiceError> {
    loop {
        log_role(&status.borrow_and_update());
        tokio::select! {
            changed = status.changed() => {
                if changed.is_err() {
                    cancel.cancelled().await;
                    return Ok(());
                }
            }
            () = cancel.cancelled() => {
                // The last word is the one after resigning.
                while status.changed().await.is_ok() {
                    log_role(&status.borrow_and_update());
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
