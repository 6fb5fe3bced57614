//! TLS on the way in and on the way to the leader, and whose certificate a call came with.
//!
//! The listener encrypts and passes on. Whom a certificate is for, and what that allows, is for the services to say.

use std::sync::Arc;

use async_trait::async_trait;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::caller::{CallerCertificates, Standing};

/// How a listener encrypts.
#[derive(Clone)]
pub struct Tls {
    /// For connections that come in. The newest is used for each new connection; those that are open go on.
    pub server: watch::Receiver<Arc<ServerConfig>>,
    /// For connections to the leader.
    pub to_leader: Arc<dyn ToLeader>,
    /// Whose word is taken for who makes a forwarded call.
    pub forwarders: Arc<dyn Forwarders>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// Connects to leaders.
pub trait ToLeader: Send + Sync + 'static {
    /// A configuration that accepts the leader on this node, and nobody else. Asked for each new connection.
    ///
    /// # Errors
    /// There is none.
    fn config(&self, node_id: &str) -> Result<Arc<ClientConfig>, rustls::Error>;
}

/// Knows which instances may forward.
#[async_trait]
pub trait Forwarders: Send + Sync + 'static {
    /// Whether whoever has shown these certificates may say who makes the calls that it forwards. Asked while this instance
    /// leads, for each forwarded call; it may wait until that can be said. Cancellation safe.
    async fn may_forward(&self, shown: &CallerCertificates) -> bool;

    /// Whom the cluster has made these certificates for; what that allows is not asked. Callers for whom it has not are kept apart
    /// from the others on the way to the leader, and wait behind them while nobody leads; users have places there that nodes do
    /// not take. Asked once a connection, wherever it comes in, if any are shown; it must not block.
    fn standing(&self, shown: &CallerCertificates) -> Standing {
        let _ = shown;
        Standing::Member
    }

    /// Why the leader would refuse a call of this method (`/package.Service/Method`) whatever it says, by what its caller has shown: then
    /// it is refused with `UNAUTHENTICATED` where it comes in, and neither waits for a leader nor goes to one. Asked for calls of those
    /// whom the cluster does not know; it must not block.
    fn refuses(&self, path: &str, shown: &CallerCertificates) -> Option<String> {
        let _ = (path, shown);
        None
    }
}
