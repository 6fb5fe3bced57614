//! An instance's own certificate and key, on disk, and what it speaks TLS with because of them.
//!
//! A directory has three PEM files: `ca.pem`, the cluster's certificate; `node.pem`, the node's; and `node-key.pem`, its private key
//! (PKCS #8), which nobody but its owner may read, as nobody else may write any of the others, or into the directory. The original's
//! files are taken as well, under the original's names. They are looked at again every few seconds: what is new and valid is used for new connections, and those that are open go on.

pub(crate) mod files;
mod offer;
pub(crate) mod replace;
pub(crate) mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use offer::ByOffer;
pub(crate) use offer::PROOF;
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use verifier::{AnyClient, NodeVerifier, Wanted};

use crate::telemetry::RELOADS_FAILED;
use crate::{Identity, PrivateKey, VerifyError, ends_at, verify};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The credentials of a node. Their key is in the configurations alone, and never shown.
#[derive(Clone)]
pub struct Credentials {
    node_id: String,
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    certified: Arc<CertifiedKey>,
    /// For clients that know no Ed25519.
    second: Option<Arc<CertifiedKey>>,
    /// For clients that ask for a proof of membership.
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

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} has no {what} in PEM: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Others may do what only the owner of the credentials should.
    #[error("others may {may}, as the mode of {} is {mode:o}: chmod {right:o} {}", path.display(), path.display())]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What others may.
        may: &'static str,
        /// The mode that it should have.
        right: u32,
    },
    /// A file or directory belongs to somebody else, who may change it.
    #[error(
        "{} belongs to the user with the id {owner}, and neither to root nor to the one that this runs as: chown {own} {}",
        path.display(),
        path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that this runs as.
        own: u32,
    },
    /// A file cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The certificate is not one of a node of this cluster.
    #[error("{} is no certificate of a node of the cluster in ca.pem: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate will be valid later, by the clock of this host. Certificates are made for the present, so it is the clock that is
    /// wrong.
    #[error(
        "{} is not valid yet, but from {valid_from} on, and the clock of this host says {now}: set the clock",
        path.display()
    )]
    NotYet {
        /// The file.
        path: PathBuf,
        /// When it begins to be valid.
        valid_from: String,
        /// What the clock says.
        now: String,
    },
    /// The key is not that of the certificate, or cannot be used.
    #[error("the private key and the certificate do not go together: {0}")]
    Key(#[from] rustls::Error),
}

impl Credentials {
    /// Reads the credentials of a directory.
    ///
    /// # Errors
    /// A file is missing or wrong, others may read the key, or they do not go together.
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
            Ok(Identity::User { name }) => return Err(wrong(format!("it is that of the user {name:?}"))),
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

    /// The credentials of a node: the authority's certificate and its own, DER, and its key.
    ///
    /// # Errors
    /// The key is not that of the certificate.
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

    /// The same, with a certificate for clients that know no Ed25519.
    ///
    /// # Errors
    /// TLS cannot use it.
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

    /// The same, with a proof of membership, or without one.
    ///
    /// # Errors
    /// TLS cannot use it.
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

    /// The same, shown to all clients with this certificate alone, whatever they offer.
    ///
    /// # Errors
    /// TLS cannot use it.
    #[cfg(any(test, feature = "testing"))]
    pub fn showing(&self, shown: Arc<CertifiedKey>) -> Result<Self, rustls::Error> {
        Ok(Self {
            server: server_config(&self.provider, shown, None, None)?,
            ..self.clone()
        })
    }

    /// The node's id, as its certificate has it.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// Which certificate ends when, in seconds since 1970.
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

    /// The certificate of the cluster's authority, DER.
    #[must_use]
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }

    /// The node's own certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The node's certificate with its key, as TLS uses them.
    #[must_use]
    pub const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The certificate for clients that know no Ed25519, once there is one.
    #[must_use]
    pub const fn second(&self) -> Option<&Arc<CertifiedKey>> {
        self.second.as_ref()
    }

    /// The proof of membership, while there is one.
    #[must_use]
    pub const fn member(&self) -> Option<&Arc<CertifiedKey>> {
        self.member.as_ref()
    }

    /// What a server of this node speaks TLS with.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For a connection to the node with this id, and no other.
    ///
    /// # Errors
    /// TLS cannot use the credentials.
    pub fn client(&self, node_id: &str) -> Result<ClientConfig, rustls::Error> {
        let wanted = Wanted::Node {
            ca: self.ca.clone(),
            node_id: node_id.to_owned(),
        };
        let verifier = NodeVerifier::new(wanted, self.provider.clone());
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
        .with_cert_resolver(Arc::new(ByOffer { own, second, member }));
    server.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection shows its certificate anew.
    server.send_tls13_tickets = 0;
    Ok(Arc::new(server))
}

/// A certificate with its key, as TLS uses them.
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

/// The newest credentials of a directory.
#[derive(Clone)]
pub struct CredentialsWatch {
    directory: PathBuf,
    newest: watch::Sender<Arc<Credentials>>,
    server: watch::Sender<Arc<ServerConfig>>,
    wall: fn() -> SystemTime,
}

impl CredentialsWatch {
    /// Begins with what is in the directory.
    ///
    /// # Errors
    /// That cannot be used.
    pub fn new(directory: PathBuf, wall: fn() -> SystemTime) -> Result<Self, CredentialsError> {
        let credentials = Credentials::load(&directory, wall())?;
        Ok(Self {
            directory,
            server: watch::Sender::new(credentials.server()),
            newest: watch::Sender::new(Arc::new(credentials)),
            wall,
        })
    }

    /// The newest.
    #[must_use]
    pub fn newest(&self) -> Arc<Credentials> {
        self.newest.borrow().clone()
    }

    /// What a server speaks TLS with, and its changes.
    #[must_use]
    pub fn server(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server.subscribe()
    }

    /// The credentials and their changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.newest.subscribe()
    }

    /// Where the node's certificate and its key are.
    #[must_use]
    pub fn node_files(&self) -> [PathBuf; 2] {
        files::of_node(&self.directory)
    }

    /// The time of day, by the clock that certificates are checked with.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.wall)()
    }

    /// Looks at the directory until cancelled. What cannot be used is reported, and what there was stays.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut said = None;
        while cancel.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            match self.look() {
                Ok(true) => info!("new credentials are used from now on"),
                Ok(false) => said = None,
                Err(error) => {
                    let text = error.to_string();
                    if said.as_ref() != Some(&text) {
                        metrics::counter!(RELOADS_FAILED, "of" => "credentials").increment(1);
                        error!(%error, "new credentials cannot be used: those that there were stay in use");
                    }
                    said = Some(text);
                }
            }
        }
    }

    /// Takes what is new in the directory; whether there was something. An instance that runs does so by itself every few seconds.
    ///
    /// # Errors
    /// It cannot be used, and what there was stays.
    pub fn look(&self) -> Result<bool, CredentialsError> {
        let found = Credentials::load(&self.directory, (self.wall)())?;
        let known = self.newest();
        if found.certificate == known.certificate && found.ca == known.ca {
            return Ok(false);
        }
        if found.node_id != known.node_id {
            return Err(CredentialsError::Certificate {
                path: files::of_node(&self.directory)[0].clone(),
                reason: format!(
                    "it is that of {}, and this instance is {}",
                    found.node_id, known.node_id
                ),
            });
        }
        // Of the same node and the same authority, so that it is as good as it was.
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

    /// Waits until there are other credentials, but no longer than this. Cancellation safe.
    pub async fn changed_within(&self, time: Duration) {
        let mut newest = self.newest.subscribe();
        // Either way it is time to look.
        let _ = tokio::time::timeout(time, newest.changed()).await;
    }

    /// Puts to use what is made of those credentials that there are at this moment, if anything is; whether it was.
    ///
    /// # Errors
    /// Whatever `make` fails with; then nothing has changed.
    pub fn update(
        &self,
        make: impl FnOnce(&Credentials) -> Result<Option<Credentials>, rustls::Error>,
    ) -> Result<bool, rustls::Error> {
        let mut failed = None;
        let replaced = self.newest.send_if_modified(|newest| match make(newest) {
            Ok(Some(made)) => {
                // Within, so that the two change in the same order.
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

/// An identity as far as a certificate that has been shown proves it.
///
/// The cluster's own authority may stand behind it: OpenSSL completes the chain of a client that knows it, as of one that verifies
/// the server. It proves nothing more, and any other certificate makes it unclear who calls.
///
/// # Errors
/// There is no certificate, more than one, or it is not the cluster's.
pub fn recognized(shown: &[CertificateDer<'_>], ca: &[u8], now: SystemTime) -> Result<Identity, NotRecognized> {
    match shown {
        [] => Err(NotRecognized::None),
        [certificate, chain @ ..] if chain.iter().all(|more| **more == *ca) => Ok(verify(certificate, ca, now)?),
        _ => Err(NotRecognized::Several),
    }
}

/// Why a caller is nobody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotRecognized {
    /// The connection shows no certificate.
    #[error("the connection shows no certificate")]
    None,
    /// It shows several.
    #[error("the connection shows more than one certificate, beside the cluster's own authority")]
    Several,
    /// Its certificate is not the cluster's, or not valid now.
    #[error("the connection's certificate: {0}")]
    Certificate(#[from] VerifyError),
}

#[cfg(test)]
mod tests;
