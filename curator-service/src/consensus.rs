//! The consensus: the store of the state, and whether it is available.

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

/// The status of the consensus.
#[derive(Clone)]
pub enum ConsensusStatus {
    /// The store is not available (yet).
    NotRunning {
        /// The reason, for logs and status.
        reason: String,
    },
    /// The consensus runs; the store is that of the Curator's namespace.
    Running(Arc<dyn Store>),
}

/// The store, as soon as the consensus runs; `None` if the consensus is gone. Cancellation safe.
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

/// A consensus whose status can be watched, so that the service can start before it.
#[async_trait]
pub trait Consensus: Send + Sync + 'static {
    /// The status and its changes.
    fn status(&self) -> watch::Receiver<ConsensusStatus>;

    /// The membership of the consensus.
    fn membership(&self) -> Arc<dyn Membership>;

    /// The current status of each endpoint; empty for a store in this process. Takes up to the timeout of a request.
    async fn endpoints(&self) -> Vec<Endpoint> {
        Vec::new()
    }

    /// The endpoints that last reported another cluster id than the one in use.
    fn foreign_endpoints(&self) -> Vec<String> {
        Vec::new()
    }

    /// The id of the etcd cluster in use; `None` if it is unknown.
    fn cluster_id(&self) -> Option<u64> {
        None
    }

    /// Maintains the status until cancelled. Called once.
    async fn run(&self, cancel: CancellationToken);
}

/// An endpoint of the consensus.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub url: String,
    /// The cluster id that it last reported.
    pub cluster_id: Option<u64>,
    /// The status of the member, or the error.
    pub status: Result<EndpointStatus, StoreError>,
}

/// An external etcd cluster.
pub struct EtcdConsensus {
    etcd: Arc<EtcdStore>,
    store: Arc<dyn Store>,
    membership: Arc<EtcdMembership>,
    status: watch::Sender<ConsensusStatus>,
    endpoints: Vec<String>,
    /// A key of the namespace, as etcd stores it.
    key: Bytes,
    certificate: Option<ClientCertificate>,
}

/// The interval of probes until etcd answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// One of this many failed probes is logged.
const PROBES_A_LOG_LINE: u32 = 20;

/// The configuration of the consensus is invalid.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConsensusError(#[from] EtcdConfigError);

impl EtcdConsensus {
    /// The etcd at these endpoints. Nothing is dialled yet.
    ///
    /// # Errors
    /// An endpoint is invalid.
    pub fn new<S: AsRef<str>>(endpoints: &[S], namespace: Namespace) -> Result<Self, ConsensusError> {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.as_ref().to_owned());
        Self::with(EtcdConfig::new(endpoints.collect()), namespace)
    }

    /// The etcd of this configuration. Nothing is dialled yet. While the consensus runs, changes of the configured
    /// files are picked up.
    ///
    /// # Errors
    /// An endpoint is invalid, or a file cannot be used.
    pub fn with(config: EtcdConfig, namespace: Namespace) -> Result<Self, ConsensusError> {
        let endpoints = config.endpoints.clone();
        let certificate = config.access.certificate.clone();
        let etcd = Arc::new(EtcdStore::new(config)?);
        let key = Bytes::copy_from_slice(namespace.prefix().as_bytes());
        let store: Arc<dyn Store> = Arc::new(Namespaced::with_siblings(etcd.clone(), namespace));
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

    /// Reports the leases granted to this process to a [`LeaseObserver`].
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
        let mut last_error = "";
        let ready = async {
            // Any linearizable read will do: only a member with a quorum answers it.
            while let Err(error) = self.store.range(Range::all(Keys::one("/"))).await {
                let is_new = std::mem::replace(&mut last_error, error.word()) != error.word();
                if is_new || failures.is_multiple_of(PROBES_A_LOG_LINE) {
                    let ended = match &self.certificate {
                        Some(certificate) => certificate.ended().await,
                        None => None,
                    };
                    match &error {
                        // The expired certificate is the reason, and was logged.
                        _ if ended.is_some() => {}
                        StoreError::Refused { reason, .. } => {
                            error!(endpoints = self.endpoints.join(","), reason, "etcd refused the request");
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
            info!(endpoints = self.endpoints.join(","), "connected to etcd");
            self.status.send_replace(ConsensusStatus::Running(self.store.clone()));
            history::watch(&self.etcd, self.key.clone()).await;
        };
        let until_cancelled = async {
            let certificate = async {
                if let Some(certificate) = &self.certificate {
                    certificate.watch().await;
                }
            };
            tokio::join!(running, self.etcd.follow_files(), certificate);
        };
        cancel.run_until_cancelled(until_cancelled).await;
    }
}

/// A consensus with a status set by the caller: for a store that is always available, and for tests.
pub struct FixedConsensus {
    status: watch::Sender<ConsensusStatus>,
    membership: Arc<dyn Membership>,
}

impl FixedConsensus {
    /// A store that is available.
    #[must_use]
    pub fn running(store: Arc<dyn Store>) -> Self {
        Self {
            status: watch::Sender::new(ConsensusStatus::Running(store)),
            membership: Arc::new(FixedMembership::default()),
        }
    }

    /// A store that is not available yet.
    pub fn not_running(reason: impl Into<String>) -> Self {
        Self {
            status: watch::Sender::new(ConsensusStatus::NotRunning { reason: reason.into() }),
            membership: Arc::new(FixedMembership::default()),
        }
    }

    /// Sets the membership.
    #[must_use]
    pub fn with_members(self, membership: Arc<dyn Membership>) -> Self {
        Self { membership, ..self }
    }

    /// Sets another status.
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
