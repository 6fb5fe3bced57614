//! The TLS configuration of a listener, and the callbacks to the services that know certificates.
//!
//! The listener encrypts and passes certificates on. The services decide whom a certificate identifies and what that
//! permits.

use std::sync::Arc;

use async_trait::async_trait;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::caller::{CallerCertificates, Standing};

/// The TLS configuration of a listener.
#[derive(Clone)]
pub struct Tls {
    /// For connections of clients. A new connection uses the newest value; open ones are not changed.
    pub server: watch::Receiver<Arc<ServerConfig>>,
    /// For connections to the leader.
    pub to_leader: Arc<dyn ToLeader>,
    /// Decides which callers may forward calls.
    pub forwarders: Arc<dyn Forwarders>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// TLS configurations for connections to leaders.
pub trait ToLeader: Send + Sync + 'static {
    /// A configuration that accepts only the leader on this node. Requested for each new connection.
    ///
    /// # Errors
    /// If there is no configuration.
    fn config(&self, node_id: &str) -> Result<Arc<ClientConfig>, rustls::Error>;
}

/// Knows the members of the cluster.
#[async_trait]
pub trait Forwarders: Send + Sync + 'static {
    /// Whether the presented certificates identify an instance that may forward calls and name their callers. Called
    /// on the leader for each forwarded call; it may wait until the members are known. Cancellation safe.
    async fn may_forward(&self, shown: &CallerCertificates) -> bool;

    /// The class of the caller that presented these certificates. It grants no rights. Strangers use separate
    /// connections to the leader and wait behind all others while there is no leader; users have places in the queue
    /// that nodes cannot take. Called once for each connection with certificates; it must not block.
    fn standing(&self, shown: &CallerCertificates) -> Standing {
        let _ = shown;
        Standing::Member
    }

    /// Why the leader would refuse every call of this method (`/package.Service/Method`) by a caller with these
    /// certificates. Such a call is refused at once with `UNAUTHENTICATED`, and is neither queued nor forwarded.
    /// Called for the calls of strangers; it must not block.
    fn refuses(&self, path: &str, shown: &CallerCertificates) -> Option<String> {
        let _ = (path, shown);
        None
    }
}
