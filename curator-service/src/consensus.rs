//! The consensus: where the state is kept, and whether it is there yet.

mod backup;
mod client_certificate;
mod embedded;
mod history;
mod leases;
mod membership;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub use backup::{RunningError, export_running};
use bytes::Bytes;
use client_certificate::ClientCertificate;
pub use curator_election::etcd::EndpointStatus;
use curator_election::etcd::{EtcdConfig, EtcdConfigError, EtcdStore};
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::store::{Keys, Range, Store, StoreError};
pub use embedded::{EmbeddedConsensus, only_consensus_member, open_embedded, open_existing_embedded};
pub use leases::LeaseObserver;
use leases::Witnessed;
use membership::EtcdMembership;
pub use membership::{FixedMembership, Member, Membership, MembershipError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Whether the consensus can be used.
#[derive(Clone)]
pub enum ConsensusStatus {
    /// Not (yet).
    NotRunning {
        /// Why, in words.
        reason: String,
    },
    /// It runs; this is the way in, within the Curator's namespace.
    Running(Arc<dyn Store>),
}

/// The store, once there is one; `None` if the consensus is gone. Cancellation safe.
pub(crate) async fn running(consensus: &mut watch::Receiver<ConsensusStatus>) -> Option<Arc<dyn Store>> {
    let is_running = |status: &ConsensusStatus| matches!(status, ConsensusStatus::Running(_));
    match &*consensus.wait_for(is_running).await.ok()? {
        ConsensusStatus::Running(store) => Some(store.clone()),
        ConsensusStatus::NotRunning { .. } => None,
    }
}

impl fmt::Debug for ConsensusStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { reason } => f.debug_struct("NotRunning").field("reason", reason).finish(),
            Self::Running(_) => f.write_str("Running"),
        }
    }
}

/// A consensus whose status can be watched, so that the service can be started before it.
#[async_trait]
pub trait Consensus: Send + Sync + 'static {
    /// The status and its changes.
    fn status(&self) -> watch::Receiver<ConsensusStatus>;

    /// The members of the consensus itself.
    fn membership(&self) -> Arc<dyn Membership>;

    /// How what it is reached through is at this moment; nothing if it is in this process. Takes as long as a call may.
    async fn endpoints(&self) -> Vec<Endpoint> {
        Vec::new()
    }

    /// The endpoints that have last said that they are members of another cluster than the one in use.
    fn foreign_endpoints(&self) -> Vec<String> {
        Vec::new()
    }

    /// The id of the cluster in use, as etcd has it; `None` if it is not known, or there is none.
    fn cluster_id(&self) -> Option<u64> {
        None
    }

    /// Does whatever the consensus needs done to report its status, until cancelled. Called once.
    async fn run(&self, cancel: CancellationToken);
}

/// A way to the consensus.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub url: String,
    /// Which cluster it has last said that it is of.
    pub cluster_id: Option<u64>,
    /// What answers there, or why nothing does.
    pub status: Result<EndpointStatus, StoreError>,
}

/// An etcd that somebody else runs.
pub struct EtcdConsensus {
    etcd: Arc<EtcdStore>,
    store: Arc<dyn Store>,
    membership: Arc<EtcdMembership>,
    status: watch::Sender<ConsensusStatus>,
    endpoints: Vec<String>,
    /// A key of the namespace, as etcd has it.
    key: Bytes,
    certificate: Option<ClientCertificate>,
}

/// How often to look whether etcd answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// Of the probes that fail, one in so many is logged.
const PROBES_A_LOG_LINE: u32 = 20;

/// Why there can be no such consensus.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConsensusError(#[from] EtcdConfigError);

impl EtcdConsensus {
    /// The etcd at these endpoints; nothing is dialled yet.
    ///
    /// # Errors
    /// An endpoint is none.
    pub fn new<S: AsRef<str>>(endpoints: &[S], namespace: Namespace) -> Result<Self, ConsensusError> {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.as_ref().to_owned());
        Self::with(EtcdConfig::new(endpoints.collect()), namespace)
    }

    /// The etcd of this configuration; nothing is dialled yet. What is new in the files that it names is used while the consensus
    /// runs.
    ///
    /// # Errors
    /// An endpoint is none, or a file cannot be used.
    pub fn with(config: EtcdConfig, namespace: Namespace) -> Result<Self, ConsensusError> {
        let endpoints = config.endpoints.clone();
        let certificate = config.access.certificate.clone();
        let etcd = Arc::new(EtcdStore::new(config)?);
        let key = Bytes::copy_from_slice(namespace.prefix().as_bytes());
        let store: Arc<dyn Store> = Arc::new(Namespaced::new(etcd.clone(), namespace));
        let membership = Arc::new(EtcdMembership(etcd.clone()));
        let reason = format!("etcd at {} has not answered yet", endpoints.join(", "));
        Ok(Self {
            etcd,
            store,
            membership,
            status: watch::Sender::new(ConsensusStatus::NotRunning { reason }),
            endpoints,
            key,
            certificate: certificate.map(|path| ClientCertificate::new(path, curator_identity::wall_clock)),
        })
    }

    /// Tells somebody of the leases that are granted to this process.
    #[must_use]
    pub fn with_lease_observer(mut self, witness: Arc<dyn LeaseObserver>) -> Self {
        let store = self.store;
        self.store = Arc::new(Witnessed { store, witness });
        self
    }
}

#[async_trait]
impl Consensus for EtcdConsensus {
    fn status(&self) -> watch::Receiver<ConsensusStatus> {
        self.status.subscribe()
    }

    fn membership(&self) -> Arc<dyn Membership> {
        self.membership.clone()
    }

    async fn endpoints(&self) -> Vec<Endpoint> {
        let endpoints = self.etcd.endpoints().await;
        let named = self.etcd.named_clusters();
        endpoints
            .into_iter()
            .zip(named)
            .map(|((url, status), cluster_id)| Endpoint {
                url,
                cluster_id,
                status,
            })
            .collect()
    }

    fn foreign_endpoints(&self) -> Vec<String> {
        let Some(id) = self.etcd.cluster_id() else {
            return Vec::new();
        };
        let named = self.endpoints.iter().zip(self.etcd.named_clusters());
        named
            .filter(|(_, named)| named.is_some_and(|named| named != id))
            .map(|(endpoint, _)| endpoint.clone())
            .collect()
    }

    fn cluster_id(&self) -> Option<u64> {
        self.etcd.cluster_id()
    }

    async fn run(&self, cancel: CancellationToken) {
        let mut failures = 0_u32;
        let mut told = "";
        let ready = async {
            // Any linearizable read will do: it is answered only by a member that has a quorum.
            while let Err(error) = self.store.range(Range::all(Keys::one("/"))).await {
                let is_new = std::mem::replace(&mut told, error.word()) != error.word();
                if is_new || failures.is_multiple_of(PROBES_A_LOG_LINE) {
                    let ended = match &self.certificate {
                        Some(certificate) => certificate.ended().await,
                        None => None,
                    };
                    match &error {
                        // That is why, and has been said.
                        _ if ended.is_some() => {}
                        StoreError::Refused { reason, .. } => {
                            error!(
                                endpoints = self.endpoints.join(","),
                                reason, "etcd refuses this instance"
                            );
                        }
                        error => warn!(endpoints = self.endpoints.join(","), %error, "waiting for etcd"),
                    }
                    let error = ended.unwrap_or_else(|| error.to_string());
                    let reason = format!("etcd at {}: {error}", self.endpoints.join(", "));
                    self.status.send_replace(ConsensusStatus::NotRunning { reason });
                }
                failures = failures.wrapping_add(1);
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        };
        let running = async {
            ready.await;
            info!(endpoints = self.endpoints.join(","), "etcd answers");
            self.status.send_replace(ConsensusStatus::Running(self.store.clone()));
            history::watch(&self.etcd, self.key.clone()).await;
        };
        let until_told = async {
            let certificate = async {
                if let Some(certificate) = &self.certificate {
                    certificate.watch().await;
                }
            };
            tokio::join!(running, self.etcd.follow_files(), certificate);
        };
        cancel.run_until_cancelled(until_told).await;
    }
}

/// A consensus whose status is set by hand: for a store that is simply there, and for tests.
pub struct FixedConsensus {
    status: watch::Sender<ConsensusStatus>,
    membership: Arc<dyn Membership>,
}

impl FixedConsensus {
    /// A store that is there.
    #[must_use]
    pub fn running(store: Arc<dyn Store>) -> Self {
        Self {
            status: watch::Sender::new(ConsensusStatus::Running(store)),
            membership: Arc::new(FixedMembership::default()),
        }
    }

    /// None yet.
    pub fn not_running(reason: impl Into<String>) -> Self {
        Self {
            status: watch::Sender::new(ConsensusStatus::NotRunning { reason: reason.into() }),
            membership: Arc::new(FixedMembership::default()),
        }
    }

    /// With these members.
    #[must_use]
    pub fn with_members(self, membership: Arc<dyn Membership>) -> Self {
        Self { membership, ..self }
    }

    /// Reports another status.
    pub fn set(&self, status: ConsensusStatus) {
        self.status.send_replace(status);
    }
}

#[async_trait]
impl Consensus for FixedConsensus {
    fn status(&self) -> watch::Receiver<ConsensusStatus> {
        self.status.subscribe()
    }

    fn membership(&self) -> Arc<dyn Membership> {
        self.membership.clone()
    }

    async fn run(&self, cancel: CancellationToken) {
        cancel.cancelled().await;
    }
}
