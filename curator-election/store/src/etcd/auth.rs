//! Authentication to etcd: CA, client certificate, user and password. All of it is in files, which are re-read.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Identity, TlsOptions};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// The timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Authentication to etcd: the paths of the credential files.
///
/// The system's trust store is never used: an `https` endpoint needs [`ca`](Self::ca).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdAuth {
    /// CA certificates (PEM) that etcd's server certificate is verified with.
    pub ca: Option<PathBuf>,
    /// Client certificate (PEM) with its intermediate certificates. Requires the key.
    pub certificate: Option<PathBuf>,
    /// Client private key (PEM), with mode 0600. Requires the certificate.
    pub key: Option<PathBuf>,
    /// User name. Requires the password file.
    pub user: Option<String>,
    /// File with the user's password, with mode 0600. One trailing newline is ignored.
    pub password_file: Option<PathBuf>,
}

/// The content of the files. Never printed.
#[derive(Clone)]
pub(super) struct Secrets {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    tls: Option<TlsOptions>,
    login: Option<(String, Zeroizing<String>)>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl PartialEq for Secrets {
    /// Whether the content of the files is the same.
    fn eq(&self, other: &Self) -> bool {
        (&self.ca, &self.certificate, &self.key, &self.login)
            == (&other.ca, &other.certificate, &other.key, &other.login)
    }
}

/// An invalid authentication configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdAuthError {
    /// One of two settings that require each other is missing.
    #[error("etcd {given} configured without {missing}: configure both or neither")]
    Incomplete {
        /// The setting that is present.
        given: &'static str,
        /// The setting that is missing.
        missing: &'static str,
    },
    /// Some endpoints use TLS and some do not.
    #[error("etcd endpoint {plain} has no TLS and {tls} has: use https for all etcd endpoints, or http for all")]
    Mixed {
        /// An endpoint without TLS.
        plain: String,
        /// An endpoint with TLS.
        tls: String,
    },
    /// TLS files are configured for an endpoint without TLS.
    #[error(
        "etcd endpoint {endpoint} has no TLS, but {what} is configured: use https in the endpoint, or remove the file"
    )]
    NotTls {
        /// An endpoint.
        endpoint: String,
        /// The TLS setting.
        what: &'static str,
    },
    /// TLS without a CA certificate.
    #[error("etcd endpoint {endpoint} is https, but no CA is configured: set the CA certificate of etcd (--etcd-ca)")]
    NoCa {
        /// The endpoint.
        endpoint: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file has invalid content.
    #[error("{} contains no valid {what}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The cause.
        reason: String,
    },
    /// A secret file is accessible to other users.
    #[error("{} is accessible to other users (mode {mode:o}): run chmod 600 on it", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A secret file is owned by another user.
    #[error("{} is owned by uid {owner}, not by root or the user of this process: run chown on it", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The certificate and the key do not match, or are unusable.
    #[error("client certificate {} and its private key do not match: {reason}", path.display())]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}

impl EtcdAuth {
    /// Whether there are files to re-read.
    pub(super) fn has_files(&self) -> bool {
        self.ca.is_some() || self.password_file.is_some()
    }

    /// Checks the endpoints against the files.
    pub(super) fn check(&self, endpoints: &[String]) -> Result<(), EtcdAuthError> {
        let of_tls = |endpoint: &&String| endpoint.starts_with("https:");
        let tls = endpoints.iter().find(of_tls);
        let plain = endpoints.iter().find(|endpoint| !of_tls(endpoint));
        if let (Some(plain), Some(tls)) = (plain, tls) {
            let (plain, tls) = (plain.clone(), tls.clone());
            return Err(EtcdAuthError::Mixed { plain, tls });
        }
        let pairs = [
            (
                "client certificate",
                self.certificate.is_some(),
                "client key",
                self.key.is_some(),
            ),
            (
                "user",
                self.user.is_some(),
                "password file",
                self.password_file.is_some(),
            ),
        ];
        for (one, has_one, other, has_other) in pairs {
            match (has_one, has_other) {
                (true, false) => {
                    return Err(EtcdAuthError::Incomplete {
                        given: one,
                        missing: other,
                    });
                }
                (false, true) => {
                    return Err(EtcdAuthError::Incomplete {
                        given: other,
                        missing: one,
                    });
                }
                _ => {}
            }
        }
        let what = match (&self.ca, &self.certificate) {
            (Some(_), _) => Some("a certificate authority"),
            (None, Some(_)) => Some("a client certificate"),
            (None, None) => None,
        };
        match (plain, tls, what, &self.ca) {
            (Some(endpoint), _, Some(what), _) => Err(EtcdAuthError::NotTls {
                endpoint: endpoint.clone(),
                what,
            }),
            (_, Some(endpoint), _, None) => Err(EtcdAuthError::NoCa {
                endpoint: endpoint.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Reads the files.
    pub(super) fn load(&self) -> Result<Secrets, EtcdAuthError> {
        let login = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => Some((user.clone(), password(file)?)),
            _ => None,
        };
        let mut secrets = Secrets {
            ca: Vec::new(),
            certificate: Vec::new(),
            key: Zeroizing::default(),
            tls: None,
            login,
        };
        let Some(path) = &self.ca else {
            return Ok(secrets);
        };
        secrets.ca = read(path)?.to_vec();
        check_authorities(path, &secrets.ca)?;
        let mut tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&secrets.ca))
            .timeout(HANDSHAKE_TIMEOUT);
        if let (Some(path), Some(key)) = (&self.certificate, &self.key) {
            secrets.certificate = read(path)?.to_vec();
            secrets.key = private(key)?;
            content(
                path,
                "certificate",
                CertificateDer::from_pem_slice(&secrets.certificate),
            )?;
            content(key, "private key", PrivateKeyDer::from_pem_slice(&secrets.key))?;
            tls = tls.identity(Identity::from_pem(&secrets.certificate, &secrets.key));
            // Building the TLS configuration checks that the two match.
            let used = tonic::transport::Endpoint::from_static("https://localhost:1").tls_config(tls.clone());
            if let Err(error) = used {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                return Err(EtcdAuthError::Pair {
                    path: path.clone(),
                    reason: source.unwrap_or_else(|| error.to_string()),
                });
            }
        }
        secrets.tls = Some(tls);
        Ok(secrets)
    }
}

impl Secrets {
    pub(super) fn tls(&self) -> Option<&TlsOptions> {
        self.tls.as_ref()
    }

    /// User and password. etcd-client takes its own copy of them.
    pub(super) fn login(&self) -> Option<(&str, &str)> {
        self.login
            .as_ref()
            .map(|(user, password)| (user.as_str(), password.as_str()))
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, EtcdAuthError> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|source| EtcdAuthError::Read {
            path: path.to_owned(),
            source,
        })
}

/// Reads a file that must be accessible to its owner only.
fn private(path: &Path) -> Result<Zeroizing<Vec<u8>>, EtcdAuthError> {
    let unreadable = |source| EtcdAuthError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    // Of the open file: the path may point to another file meanwhile.
    let metadata = file.metadata().map_err(unreadable)?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(EtcdAuthError::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
        });
    }
    match metadata.permissions().mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(EtcdAuthError::Permissions {
            path: path.to_owned(),
            mode,
        }),
        _ => {
            // Allocated once, so that growing leaves no copy of the secret in memory.
            let room = usize::try_from(metadata.len()).unwrap_or(0).saturating_add(1);
            let mut bytes = Zeroizing::new(Vec::with_capacity(room));
            file.read_to_end(&mut bytes).map_err(unreadable)?;
            Ok(bytes)
        }
    }
}

fn password(path: &Path) -> Result<Zeroizing<String>, EtcdAuthError> {
    let bytes = private(path)?;
    let text = content(path, "password", std::str::from_utf8(&bytes))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => content(path, "password", Err("the file is empty")),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}

fn check_authorities(path: &Path, pem: &[u8]) -> Result<(), EtcdAuthError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = content(path, "CA certificate", certificate)?;
        content(path, "CA certificate", roots.add(certificate))?;
    }
    if roots.is_empty() {
        return content(path, "CA certificate", Err("no PEM certificate found"));
    }
    Ok(())
}

fn content<T>(path: &Path, what: &'static str, read: Result<T, impl fmt::Display>) -> Result<T, EtcdAuthError> {
    read.map_err(|error| EtcdAuthError::Content {
        path: path.to_owned(),
        what,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    fn file(name: &str, content: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("curator-access-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let there = || Some(PathBuf::from("there"));
        let (http, https) = (["http://a:1"], ["https://a:1"]);
        let with = |change: fn(&mut EtcdAuth, Option<PathBuf>)| {
            let mut access = EtcdAuth::default();
            change(&mut access, there());
            access
        };
        let cases = [
            (
                EtcdAuth::default(),
                &["http://a:1", "https://b:1"][..],
                "or http for all",
            ),
            (EtcdAuth::default(), &https, "--etcd-ca"),
            (with(|a, f| a.ca = f), &http, "use https"),
            (with(|a, f| a.certificate = f), &https, "without client key"),
            (with(|a, f| a.key = f), &https, "without client certificate"),
            (with(|a, _| a.user = Some("u".into())), &http, "without password file"),
            (with(|a, f| a.password_file = f), &http, "without user"),
        ];
        for (access, urls, told) in cases {
            let error = access.check(&endpoints(urls)).unwrap_err().to_string();
            assert!(error.contains(told), "{access:?}: {error}");
        }
        EtcdAuth::default().check(&endpoints(&http)).unwrap();
        with(|a, f| a.ca = f).check(&endpoints(&https)).unwrap();
    }

    #[test]
    fn secrets_that_others_may_read_are_refused_with_a_hint() {
        let mut access = EtcdAuth {
            user: Some("u".into()),
            password_file: Some(file("open", "secret", 0o640)),
            ..EtcdAuth::default()
        };
        let error = access.load().unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
        access.password_file = Some(file("closed", "secret\n", 0o600));
        let secrets = access.load().unwrap();
        assert_eq!(secrets.login(), Some(("u", "secret")));
        assert!(!format!("{secrets:?}").contains("secret\""));
        access.password_file = Some(file("empty", "\n", 0o600));
        assert!(access.load().unwrap_err().to_string().contains("the file is empty"));
    }

    /// Only root can give files away.
    #[test]
    fn a_secret_of_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let path = file("foreign", "secret", 0o600);
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        let access = EtcdAuth {
            user: Some("u".into()),
            password_file: Some(path),
            ..EtcdAuth::default()
        };
        let error = access.load().unwrap_err().to_string();
        assert!(error.contains("65534") && error.contains("chown"), "{error}");
    }

    #[test]
    fn a_file_without_a_certificate_is_told() {
        for (name, text) in [
            ("none", ""),
            (
                "broken",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ),
        ] {
            let access = EtcdAuth {
                ca: Some(file(name, text, 0o644)),
                ..EtcdAuth::default()
            };
            let error = access.load().unwrap_err().to_string();
            assert!(error.contains("contains no valid CA certificate"), "{error}");
        }
    }
}
