//! The certificate and key of a node on disk, and the TLS configuration made from them.
//!
//! A directory has three PEM files: `ca.pem`, the cluster's CA certificate; `node.pem`, the node's certificate; and
//! `node-key.pem`, its private key (PKCS #8). Only the owner may read the key, and only the owner may write the files
//! and the directory. The files of the Go Curator are accepted under their own names. The files are polled every few
//! seconds: new valid files are used for new connections, and open connections continue.

pub(crate) mod files;
mod offer;
pub(crate) mod replace;
pub(crate) mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use offer::CertificateSelector;
pub(crate) use offer::PROOF;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use verifier::{AnyClient, ExpectedServer, NodeVerifier};

use crate::telemetry::RELOADS_FAILED;
use crate::{Identity, PrivateKey, VerifyError, ends_at, verify};

/// How often the files are polled.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The credentials of a node. `Debug` does not print the key.
#[derive(Clone)]
pub struct Credentials {
    node_id: String,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    certified: Arc<CertifiedKey>,
    /// For clients without Ed25519 support.
    second: Option<Arc<CertifiedKey>>,
    /// For clients that request a proof of membership.
    member: Option<Arc<CertifiedKey>>,
    server: Arc<ServerConfig>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}

/// Why credentials are rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// A file does not contain the expected PEM block.
    #[error("{} contains no {what} in PEM: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The reason.
        reason: String,
    },
    /// The mode of a file or directory gives access to other users.
    #[error("other users may {may}: the mode of {} is {mode:o}. Run: chmod {right:o} {}", path.display(), path.display())]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// The mode.
        mode: u32,
        /// The access that other users have.
        may: &'static str,
        /// The required mode.
        right: u32,
    },
    /// A file or directory belongs to another user.
    #[error(
        "{} is owned by uid {owner}; it must be owned by root or by uid {own}. Run: chown {own} {}",
        path.display(),
        path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// The uid of the owner.
        owner: u32,
        /// The uid of this process.
        own: u32,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The certificate is not a node certificate of this cluster.
    #[error("{} is not a node certificate of the cluster in ca.pem: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The certificate is not valid yet. Certificates are valid from their creation, so the local clock is wrong.
    #[error(
        "{} is not valid before {valid_from}, and the clock of this host is at {now}: set the clock",
        path.display()
    )]
    NotYet {
        /// The file.
        path: PathBuf,
        /// The start of the validity period.
        valid_from: String,
        /// The local time.
        now: String,
    },
    /// The key does not match the certificate, or TLS cannot use it.
    #[error("private key and certificate do not match: {0}")]
    Key(#[from] rustls::Error),
}

impl Credentials {
    /// Loads the credentials from a directory.
    ///
    /// # Errors
    /// If a file is missing or invalid, other users have access, or the key does not match the certificate.
    pub fn load(directory: &Path, now: SystemTime) -> Result<Self, CredentialsError> {
        files::check_directory(directory)?;
        let ca = files::read_certificate(&directory.join(files::names::CA))?;
        let [path, key_path] = files::of_node(directory);
        let certificate = files::read_certificate(&path)?;
        let wrong = |reason: String| CredentialsError::Certificate {
            path: path.clone(),
            reason,
        };
        let node_id = match verify(&certificate, &ca, now) {
            Ok(Identity::Node { id, .. }) => id,
            Ok(Identity::User { name }) => return Err(wrong(format!("it is the certificate of the user {name:?}"))),
            Err(VerifyError::NotYet { valid_from }) => {
                return Err(CredentialsError::NotYet {
                    path,
                    valid_from,
                    now: humantime::format_rfc3339_seconds(now.max(SystemTime::UNIX_EPOCH)).to_string(),
                });
            }
            Err(error) => return Err(wrong(error.to_string())),
        };
        let key = files::read_private_key(&key_path)?;
        Ok(Self::new(node_id, ca, certificate, &key)?)
    }

    /// The credentials of a node: the CA certificate and the node's certificate (DER), and the node's key.
    ///
    /// # Errors
    /// If the key does not match the certificate.
    pub fn new(node_id: String, ca: Vec<u8>, certificate: Vec<u8>, key: &PrivateKey) -> Result<Self, rustls::Error> {
        let (ca, certificate) = (CertificateDer::from(ca), CertificateDer::from(certificate));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certified = certified(certificate.clone(), key)?;
        let server = server_config(&provider, certified.clone(), None, None)?;
        Ok(Self {
            node_id,
            ca,
            certificate,
            certified,
            second: None,
            member: None,
            server,
            provider,
        })
    }

    /// The same credentials with a certificate for clients without Ed25519 support.
    ///
    /// # Errors
    /// If TLS cannot use it.
    pub fn with_second(&self, second: Arc<CertifiedKey>) -> Result<Self, rustls::Error> {
        Ok(Self {
            server: server_config(
                &self.provider,
                self.certified.clone(),
                Some(second.clone()),
                self.member.clone(),
            )?,
            second: Some(second),
            ..self.clone()
        })
    }

    /// The same credentials with a proof of membership, or without one.
    ///
    /// # Errors
    /// If TLS cannot use it.
    pub fn with_member(&self, member: Option<Arc<CertifiedKey>>) -> Result<Self, rustls::Error> {
        Ok(Self {
            server: server_config(
                &self.provider,
                self.certified.clone(),
                self.second.clone(),
                member.clone(),
            )?,
            member,
            ..self.clone()
        })
    }

    /// The same credentials, except that all clients are presented this certificate.
    ///
    /// # Errors
    /// If TLS cannot use it.
    #[cfg(any(test, feature = "testing"))]
    pub fn showing(&self, shown: Arc<CertifiedKey>) -> Result<Self, rustls::Error> {
        Ok(Self {
            server: server_config(&self.provider, shown, None, None)?,
            ..self.clone()
        })
    }

    /// The node id in the certificate.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// When each certificate expires, in seconds since 1970.
    #[must_use]
    pub fn ends(&self) -> Vec<(&'static str, i64)> {
        let second = self.second.as_ref().and_then(|second| second.cert.first());
        let all = [
            ("node", Some(&self.certificate[..])),
            ("ca", Some(&self.ca[..])),
            ("second", second.map(|certificate| &certificate[..])),
        ];
        all.into_iter()
            .filter_map(|(name, der)| Some((name, ends_at(der?)?)))
            .collect()
    }

    /// The cluster's CA certificate, DER.
    #[must_use]
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }

    /// The node's certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The node's certificate with its key, for TLS.
    #[must_use]
    pub const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The certificate for clients without Ed25519 support, if there is one.
    #[must_use]
    pub const fn second(&self) -> Option<&Arc<CertifiedKey>> {
        self.second.as_ref()
    }

    /// The proof of membership, if there is one.
    #[must_use]
    pub const fn member(&self) -> Option<&Arc<CertifiedKey>> {
        self.member.as_ref()
    }

    /// The TLS configuration of a server on this node.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The TLS configuration of a client that accepts only the node with this id.
    ///
    /// # Errors
    /// If TLS cannot use the credentials.
    pub fn client(&self, node_id: &str) -> Result<ClientConfig, rustls::Error> {
        let expected = ExpectedServer::Node {
            ca: self.ca.clone(),
            node_id: node_id.to_owned(),
        };
        let verifier = NodeVerifier::new(expected, self.provider.clone());
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(client)
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    own: Arc<CertifiedKey>,
    second: Option<Arc<CertifiedKey>>,
    member: Option<Arc<CertifiedKey>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(AnyClient::new(provider.clone())))
        .with_cert_resolver(Arc::new(CertificateSelector { own, second, member }));
    server.alpn_protocols = vec![b"h2".to_vec()];
    // No resumption: each connection presents its certificate.
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

/// A certificate with its key, for TLS.
pub(crate) fn certified(
    certificate: CertificateDer<'static>,
    key: &PrivateKey,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let der = key.to_pkcs8();
    let signing = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&der[..]))?;
    let certified = CertifiedKey::new(vec![certificate], signing);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

/// The current credentials of a directory.
#[derive(Clone)]
pub struct CredentialsWatch {
    directory: PathBuf,
    newest: watch::Sender<Arc<Credentials>>,
    server: watch::Sender<Arc<ServerConfig>>,
    wall: fn() -> SystemTime,
}

impl CredentialsWatch {
    /// Loads the credentials from the directory.
    ///
    /// # Errors
    /// If they are rejected.
    pub fn new(directory: PathBuf, wall: fn() -> SystemTime) -> Result<Self, CredentialsError> {
        let credentials = Credentials::load(&directory, wall())?;
        Ok(Self {
            directory,
            server: watch::Sender::new(credentials.server()),
            newest: watch::Sender::new(Arc::new(credentials)),
            wall,
        })
    }

    /// The current credentials.
    #[must_use]
    pub fn newest(&self) -> Arc<Credentials> {
        self.newest.borrow().clone()
    }

    /// The TLS configuration of a server, and its changes.
    #[must_use]
    pub fn server(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server.subscribe()
    }

    /// The credentials and their changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.newest.subscribe()
    }

    /// The paths of the node's certificate and key.
    #[must_use]
    pub fn node_files(&self) -> [PathBuf; 2] {
        files::of_node(&self.directory)
    }

    /// The time that certificates are checked against.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.wall)()
    }

    /// Polls the directory until cancelled. Rejected files are logged, and the current credentials stay in use.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut reported = None;
        while cancel
            .run_until_cancelled(tokio::time::sleep(POLL_INTERVAL))
            .await
            .is_some()
        {
            match self.reload() {
                Ok(true) => info!("credentials reloaded"),
                Ok(false) => reported = None,
                Err(error) => {
                    let text = error.to_string();
                    if reported.as_ref() != Some(&text) {
                        metrics::counter!(RELOADS_FAILED, "of" => "credentials").increment(1);
                        error!(%error, "credentials rejected: the current ones stay in use");
                    }
                    reported = Some(text);
                }
            }
        }
    }

    /// Loads new files from the directory; returns whether they changed. A running instance does this every few
    /// seconds.
    ///
    /// # Errors
    /// If the files are rejected; the current credentials stay in use.
    pub fn reload(&self) -> Result<bool, CredentialsError> {
        let found = Credentials::load(&self.directory, (self.wall)())?;
        let known = self.newest();
        if found.certificate == known.certificate && found.ca == known.ca {
            return Ok(false);
        }
        if found.node_id != known.node_id {
            return Err(CredentialsError::Certificate {
                path: files::of_node(&self.directory)[0].clone(),
                reason: format!(
                    "it belongs to {}, but this instance is {}",
                    found.node_id, known.node_id
                ),
            });
        }
        // The second certificate and the proof stay valid for the same node and the same CA.
        self.update(|there| {
            if found.ca != there.ca {
                return Ok(Some(found));
            }
            let found = found.with_member(there.member.clone())?;
            Ok(Some(match &there.second {
                Some(second) => found.with_second(second.clone())?,
                None => found,
            }))
        })?;
        Ok(true)
    }

    /// Waits for other credentials, but at most this long. Cancellation safe.
    pub async fn changed_within(&self, time: Duration) {
        let mut newest = self.newest.subscribe();
        // The caller checks in either case.
        let _ = tokio::time::timeout(time, newest.changed()).await;
    }

    /// Replaces the credentials atomically with what `make` returns for the current ones; returns whether it replaced
    /// them.
    ///
    /// # Errors
    /// The error of `make`; then nothing has changed.
    pub fn update(
        &self,
        make: impl FnOnce(&Credentials) -> Result<Option<Credentials>, rustls::Error>,
    ) -> Result<bool, rustls::Error> {
        let mut failed = None;
        let replaced = self.newest.send_if_modified(|newest| match make(newest) {
            Ok(Some(made)) => {
                // Inside the closure, so that both change in the same order.
                self.server.send_replace(made.server());
                *newest = Arc::new(made);
                true
            }
            Ok(None) => false,
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        failed.map_or(Ok(replaced), Err)
    }
}

/// Identifies a peer by the certificates that it presented.
///
/// The chain may contain the CA certificate, because OpenSSL clients that know the CA send it. Any other additional
/// certificate is rejected as ambiguous.
///
/// # Errors
/// If there is no certificate, more than one, or it is not a certificate of the cluster.
pub fn recognized(shown: &[CertificateDer<'_>], ca: &[u8], now: SystemTime) -> Result<Identity, NotRecognized> {
    match shown {
        [] => Err(NotRecognized::None),
        [certificate, chain @ ..] if chain.iter().all(|more| **more == *ca) => Ok(verify(certificate, ca, now)?),
        _ => Err(NotRecognized::Several),
    }
}

/// Why a peer is not identified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotRecognized {
    /// The peer presented no certificate.
    #[error("the client presented no certificate")]
    None,
    /// The peer presented several certificates.
    #[error("the client presented more than one certificate besides the CA certificate")]
    Several,
    /// The certificate is not one of the cluster, or not valid now.
    #[error("client certificate rejected: {0}")]
    Certificate(#[from] VerifyError),
}

#[cfg(test)]
mod tests;
