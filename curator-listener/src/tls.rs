//! The TLS configuration of a listener, and the callbacks to the services that know certificates.
//!
//! The listener encrypts and passes certificates on. The services decide whom a certificate identifies and what that
//! permits.

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::caller::{CallerCertificates, Standing};

/// The TLS configuration of a listener.
#[derive(Clone)]
pub struct Tls {
    /// For connections of clients. A new connection uses the newest value; open ones are not changed. Each value must
    /// offer `h2` in `alpn_protocols`: [`ListenerBuilder::build`](crate::ListenerBuilder::build) refuses a first value
    /// that does not, and handshakes with a later one fail.
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
    /// A configuration that accepts only the leader on this node, and offers `h2` in `alpn_protocols`. Requested for
    /// each new connection; it must not block.
    ///
    /// # Errors
    /// If there is no configuration.
    fn config(&self, node_id: &str) -> Result<Arc<ClientConfig>, rustls::Error>;

    /// The name that the configuration's verifier gets for the leader on this node at this address
    /// ([`Leader::addresses`](crate::Leader::addresses)), and that the handshake sends as SNI if it is a DNS name. A
    /// verifier of the web PKI, such as [`rustls::client::WebPkiServerVerifier`], looks for this name among the subject
    /// alternative names of the certificate; a verifier of your own may ignore it.
    ///
    /// By default it is the node id. A node id that is no DNS name and no IP address gives `0.0.0.0`, which no
    /// certificate has; only verifiers of your own can accept such a leader. If certificates carry the host of the
    /// address, return that host ([`host_name`](crate::host_name)); if they carry one name for all instances, return
    /// that name. Then the verifier does not tell the leader from other holders of such a certificate.
    ///
    /// # Errors
    /// If there is no name for this leader.
    fn server_name(&self, node_id: &str, address: &str) -> Result<ServerName<'static>, rustls::Error> {
        let _ = address;
        let none = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        Ok(ServerName::try_from(node_id.to_owned()).unwrap_or(none))
    }
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

/// The host of an address `host:port` as a server name, for [`ToLeader::server_name`]: a DNS name or an IP address.
///
/// # Errors
/// If the address has no port, or its host is no valid name.
pub fn host_name(address: &str) -> Result<ServerName<'static>, rustls::Error> {
    let invalid = || {
        let message = format!("no host name in the address {address:?}: expected host:port");
        rustls::Error::General(message)
    };
    let (host, _port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|_| invalid())
}

/// Whether a TLS configuration with these protocols agrees on HTTP/2. Without ALPN some clients connect and others,
/// such as grpc-go, refuse.
pub(crate) fn offers_http2(alpn_protocols: &[Vec<u8>]) -> bool {
    alpn_protocols.iter().any(|protocol| protocol == b"h2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_name_is_the_host_of_the_address() {
        for (address, name) in [
            ("node-1.example.com:7835", "node-1.example.com"),
            ("192.0.2.1:7835", "192.0.2.1"),
            ("[2001:db8::1]:7835", "2001:db8::1"),
        ] {
            assert_eq!(host_name(address).expect(address).to_str(), name, "{address}");
        }
        for address in ["", "node-1", ":7835", "a b:1"] {
            assert!(host_name(address).is_err(), "{address}");
        }
    }

    #[test]
    fn server_name_defaults_to_the_node_id() {
        struct Nothing;
        impl ToLeader for Nothing {
            fn config(&self, _: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
                Err(rustls::Error::General("not asked for".into()))
            }
        }
        for (node_id, name) in [("node-1", "node-1"), ("192.0.2.1", "192.0.2.1"), ("no name", "0.0.0.0")] {
            let verified = Nothing.server_name(node_id, "10.0.0.1:7835").expect(node_id);
            assert_eq!(verified.to_str(), name, "{node_id}");
        }
    }
}
