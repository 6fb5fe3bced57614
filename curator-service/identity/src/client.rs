//! Client-side TLS: the certificate that a client presents, and the servers that it accepts.
//!
//! A client presents a certificate of the cluster (a node's or a user's), a self-signed certificate for its key, or
//! none. It accepts only nodes of the cluster; their certificate decides, not the host name. An instance at its limits
//! tells clients when to retry: [`with_retries`](crate::with_retries) follows that.
//!
//! ```no_run
//! use std::path::Path;
//! use curator_proto::management_api::GetClusterInfoRequest;
//! use curator_proto::management_api::management_client::ManagementClient;
//! use curator_identity::{ClientCredentials, Trust, with_retries, read_certificate, read_private_key};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let trust = Trust::Cluster {
//!     ca: read_certificate(Path::new("ca.pem"))?,
//! };
//! let certificate = read_certificate(Path::new("owner.pem"))?;
//! let key = read_private_key(Path::new("owner-key.pem"))?;
//! let owner = ClientCredentials::with_certificate(trust, certificate, &key)?;
//! let mut management = ManagementClient::new(owner.channel("192.0.2.1:7835")?);
//! let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
//! let info = with_retries(until, async || management.get_cluster_info(GetClusterInfoRequest {}).await);
//! println!("{:?}", info.await?);
//! # Ok(())
//! # }
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::credentials::verifier::{ExpectedServer, NodeVerifier};
use crate::credentials::{PROOF, certified};
use crate::{AuthorityError, PrivateKey, ephemeral};

/// Timeout of a connection attempt including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which servers a client accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Any node of the cluster that proves to be a consensus member. Instances present this proof on request, so no
    /// other node can receive secrets or give answers. After a node is deleted or loses the role, its proof stays
    /// valid for at most two hours. Go Curators and earlier releases have no proof.
    Instances {
        /// The cluster's CA certificate, DER.
        ca: Vec<u8>,
    },
    /// Any node of the cluster with this CA.
    Cluster {
        /// The cluster's CA certificate, DER.
        ca: Vec<u8>,
    },
    /// One node of the cluster.
    Node {
        /// The cluster's CA certificate, DER.
        ca: Vec<u8>,
        /// The node's id.
        node_id: String,
    },
    /// One of these nodes of the cluster. For clusters whose instances present no proof of membership: a node
    /// certificate alone does not tell whether the node is a consensus member, or was deleted.
    Members {
        /// The cluster's CA certificate, DER.
        ca: Vec<u8>,
        /// The nodes' ids.
        node_ids: Vec<String>,
    },
    /// Any server, without verification. For data that is verified by other means, such as the fingerprint of the CA
    /// certificate.
    Unverified,
}

impl From<Trust> for ExpectedServer {
    fn from(trust: Trust) -> Self {
        match trust {
            Trust::Instances { ca } => Self::Instance { ca: ca.into() },
            Trust::Cluster { ca } => Self::AnyNode { ca: ca.into() },
            Trust::Node { ca, node_id } => Self::Node { ca: ca.into(), node_id },
            Trust::Members { ca, node_ids } => Self::OneOf {
                ca: ca.into(),
                node_ids,
            },
            Trust::Unverified => Self::Any,
        }
    }
}

/// Why client credentials or a channel cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The certificate and the key do not match, or TLS cannot use them.
    #[error("cannot use the certificate and private key: {0}")]
    Tls(#[from] rustls::Error),
    /// No self-signed certificate can be created for the key.
    #[error("cannot create a certificate for the key: {0}")]
    Make(String),
    /// The address is invalid.
    #[error("invalid address {address:?}: expected host:port, such as 192.0.2.1:7835")]
    Address {
        /// The address.
        address: String,
    },
}

impl From<AuthorityError> for ClientError {
    fn from(error: AuthorityError) -> Self {
        Self::Make(error.to_string())
    }
}

/// The certificate that a client presents and the servers that it accepts. `Debug` does not print the key.
#[derive(Clone)]
pub struct ClientCredentials {
    config: Arc<ClientConfig>,
    /// Whether the handshake requests a proof of membership.
    requests_proof: bool,
}

impl std::fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCredentials(..)")
    }
}

impl ClientCredentials {
    /// Presents no certificate: enough for methods without authorization.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn anonymous(trust: Trust) -> Result<Self, ClientError> {
        Self::new(trust, None)
    }

    /// Presents a certificate (DER) of a node or a user of the cluster.
    ///
    /// # Errors
    /// If the key does not match the certificate.
    pub fn with_certificate(
        trust: Trust,
        certificate: impl Into<Vec<u8>>,
        key: &PrivateKey,
    ) -> Result<Self, ClientError> {
        Self::new(trust, Some((certificate.into(), key)))
    }

    /// Presents a new self-signed certificate for a key. Nodes and the owner use this before they have a certificate
    /// of the cluster.
    ///
    /// # Errors
    /// If the certificate cannot be created.
    pub fn with_key(trust: Trust, key: &PrivateKey, now: SystemTime) -> Result<Self, ClientError> {
        let certificate = ephemeral(key, now)?;
        Self::new(trust, Some((certificate, key)))
    }

    fn new(trust: Trust, shown: Option<(Vec<u8>, &PrivateKey)>) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let requests_proof = matches!(trust, Trust::Instances { .. });
        let verifier = NodeVerifier::new(trust.into(), provider.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match shown {
            Some((certificate, key)) => {
                let certified = certified(CertificateDer::from(certificate), key)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            requests_proof,
        })
    }

    /// Credentials with a given TLS configuration.
    pub fn of(config: ClientConfig) -> Self {
        Self {
            config: Arc::new(config),
            requests_proof: false,
        }
    }

    /// The TLS configuration, for use with another connector together with [`server_name`](Self::server_name).
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The server name to send in the handshake. It does not identify the server; [`Trust::Instances`] requests the
    /// proof of membership with it.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        match (self.requests_proof, ServerName::try_from(PROOF)) {
            (true, Ok(name)) => name,
            // rustls requires a name; it does not send an IP address.
            _ => ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        }
    }

    /// A connector for an [`Endpoint`] with the scheme `http`; TLS is done by the connector.
    #[must_use]
    pub fn connector(&self) -> Connector {
        Connector(self.clone())
    }

    /// A channel to an instance at `host:port`. It connects on first use and reconnects as needed.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn channel(&self, address: &str) -> Result<Channel, ClientError> {
        let uri = |scheme: &str| {
            let uri: Option<Uri> = format!("{scheme}://{address}").parse().ok();
            let complete =
                uri.filter(|uri| uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some());
            complete.ok_or_else(|| ClientError::Address {
                address: address.to_owned(),
            })
        };
        let (origin, uri) = (uri("https")?, uri("http")?);
        let endpoint = Endpoint::from(uri)
            .origin(origin)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        Ok(endpoint.connect_with_connector_lazy(self.connector()))
    }
}

/// Opens connections with client credentials.
#[derive(Clone)]
pub struct Connector(ClientCredentials);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector(..)")
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (config, name) = (self.0.config(), self.0.server_name());
        let connecting = async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let port = uri.port_u16().unwrap_or(crate::CURATOR_PORT);
            let stream = TcpStream::connect((host, port)).await?;
            // Nagle's algorithm delays small messages until the previous one is acknowledged.
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
        };
        let bounded = async move {
            let late = || {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("connection not established within {CONNECT_TIMEOUT:?}"),
                )
            };
            timeout(CONNECT_TIMEOUT, connecting)
                .await
                .unwrap_or_else(|_| Err(late()))
        };
        bounded.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;
    use crate::testing::{authority, handshake, node, wall};
    use crate::{Subject, self_signed_key};

    struct Cluster {
        ca: Vec<u8>,
        node_id: String,
        server: Credentials,
        owner: (Vec<u8>, PrivateKey),
    }

    fn cluster() -> Cluster {
        let authority = authority();
        let (key, node_id, certificate) = node(&authority);
        let ca = authority.certificate().to_vec();
        let owner = PrivateKey::generate().unwrap();
        let certified = authority
            .issue(&Subject::user("owner"), owner.public_key(), wall())
            .unwrap();
        Cluster {
            server: Credentials::new(node_id.clone(), ca.clone(), certificate, &key).unwrap(),
            owner: (certified, owner),
            ca,
            node_id,
        }
    }

    async fn shaken(server: &Credentials, client: ClientCredentials) -> Result<Vec<Vec<u8>>, String> {
        let (shown, reached) = handshake(server, (*client.config()).clone()).await;
        reached.and(shown)
    }

    #[tokio::test]
    async fn what_is_shown_is_what_was_given() {
        let cluster = cluster();
        let trust = Trust::Cluster { ca: cluster.ca.clone() };
        let nobody = ClientCredentials::anonymous(trust.clone()).unwrap();
        assert_eq!(shaken(&cluster.server, nobody).await, Ok(Vec::new()));
        let (certificate, key) = &cluster.owner;
        let owner = ClientCredentials::with_certificate(trust.clone(), certificate.clone(), key).unwrap();
        assert_eq!(shaken(&cluster.server, owner).await, Ok(vec![certificate.clone()]));
        let other = PrivateKey::generate().unwrap();
        ClientCredentials::with_certificate(trust.clone(), certificate.clone(), &other).unwrap_err();
        let key_alone = ClientCredentials::with_key(trust, &other, wall()).unwrap();
        let shown = shaken(&cluster.server, key_alone).await.unwrap();
        assert_eq!(shown.len(), 1);
        assert_eq!(self_signed_key(&shown[0]).as_ref(), Some(other.public_key()));
    }

    #[tokio::test]
    async fn only_nodes_of_the_cluster_are_taken_for_it() {
        let (one, two) = (cluster(), cluster());
        let node = |ca: &Vec<u8>, node_id: &str| Trust::Node {
            ca: ca.clone(),
            node_id: node_id.into(),
        };
        let reach = async |trust, server| shaken(server, ClientCredentials::anonymous(trust).unwrap()).await;
        assert_eq!(reach(node(&one.ca, &one.node_id), &one.server).await, Ok(Vec::new()));
        let other = reach(node(&one.ca, &two.node_id), &one.server).await.unwrap_err();
        assert!(other.contains(&format!("this is not node {}", two.node_id)), "{other}");
        let stranger = reach(Trust::Cluster { ca: one.ca.clone() }, &two.server)
            .await
            .unwrap_err();
        assert!(stranger.contains("not a node of the cluster"), "{stranger}");
        assert_eq!(reach(Trust::Unverified, &two.server).await, Ok(Vec::new()));
        // A user's certificate makes no server of the cluster.
        let (certificate, key) = one.owner;
        let impostor = Credentials::new("owner".into(), one.ca.clone(), certificate, &key).unwrap();
        let user = reach(Trust::Cluster { ca: one.ca }, &impostor).await.unwrap_err();
        assert!(user.contains("it is a user"), "{user}");
    }

    /// A worker's certificate is as good as a member's. Whoever names the members is not taken in by it.
    #[tokio::test]
    async fn of_named_members_no_other_node_is_taken_for_one() {
        let authority = authority();
        let ca = authority.certificate().to_vec();
        let server = || {
            let (key, node_id, certificate) = node(&authority);
            (
                Credentials::new(node_id.clone(), ca.clone(), certificate, &key).unwrap(),
                node_id,
            )
        };
        let ((member, one), (other_member, two), (worker, three)) = (server(), server(), server());
        let trust = || Trust::Members {
            ca: ca.clone(),
            node_ids: vec![one.clone(), two.clone()],
        };
        let reach = async |server| shaken(server, ClientCredentials::anonymous(trust()).unwrap()).await;
        assert_eq!(reach(&member).await, Ok(Vec::new()));
        assert_eq!(reach(&other_member).await, Ok(Vec::new()));
        let refused = reach(&worker).await.unwrap_err();
        assert!(
            refused.contains("one of the given members") && refused.contains(&three),
            "{refused}"
        );
        // An id alone is nothing.
        let stranger = cluster();
        let trust = Trust::Members {
            ca: ca.clone(),
            node_ids: vec![stranger.node_id.clone()],
        };
        shaken(&stranger.server, ClientCredentials::anonymous(trust).unwrap())
            .await
            .unwrap_err();
    }

    #[tokio::test]
    async fn addresses_are_host_and_port() {
        let client = ClientCredentials::anonymous(Trust::Unverified).unwrap();
        for good in ["127.0.0.1:7835", "[::1]:7835", "node-1.example.com:7835"] {
            client.channel(good).expect(good);
        }
        for bad in ["", "a b:1", "[::1:7835", "host:port"] {
            let error = client.channel(bad).map(drop).unwrap_err().to_string();
            assert!(error.contains("such as 192.0.2.1:7835"), "{bad:?}: {error}");
        }
    }
}
