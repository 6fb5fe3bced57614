//! What etcd asks of its clients: TLS, a certificate, a user. All of it is in files, which are looked at again.

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

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// How to be let in by an etcd that asks for more than a connection: where the files are.
///
/// The system's own certificate authorities are never used: an `https` endpoint needs [`ca`](Self::ca).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdAuth {
    /// The certificates, PEM, of the authorities that etcd's own certificate must come from.
    pub ca: Option<PathBuf>,
    /// The client's certificate, PEM, and what leads from it to an authority that etcd knows. Needs the key.
    pub certificate: Option<PathBuf>,
    /// The client's private key, PEM, which nobody but its owner may read. Needs the certificate.
    pub key: Option<PathBuf>,
    /// The user to log in as. Needs the password.
    pub user: Option<String>,
    /// A file with the user's password, which nobody but its owner may read; a line end after it is no part of it.
    pub password_file: Option<PathBuf>,
}

/// What was in the files. Never shown.
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
    /// Whether the files had the same in them.
    fn eq(&self, other: &Self) -> bool {
        (&self.ca, &self.certificate, &self.key, &self.login)
            == (&other.ca, &other.certificate, &other.key, &other.login)
    }
}

/// Why an etcd cannot be reached as it was configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdAuthError {
    /// One of two things that go together is missing.
    #[error("{given} is given for etcd without {missing}: give both or neither")]
    Incomplete {
        /// What there is.
        given: &'static str,
        /// What there is not.
        missing: &'static str,
    },
    /// Endpoints without TLS beside such with it.
    #[error("{plain} is without TLS and {tls} is with it: give all etcd endpoints as https, or all as http")]
    Mixed {
        /// An endpoint without TLS.
        plain: String,
        /// An endpoint with TLS.
        tls: String,
    },
    /// Files for TLS, and endpoints without it.
    #[error(
        "{endpoint} is without TLS, and {what} for etcd is given: write https in the endpoint, or leave the file out"
    )]
    NotTls {
        /// An endpoint.
        endpoint: String,
        /// What is given.
        what: &'static str,
    },
    /// TLS, and nobody to trust.
    #[error(
        "{endpoint} is https, and there is nothing to check etcd's certificate by: give the certificate of its authority (--etcd-ca)"
    )]
    NoCa {
        /// The endpoint.
        endpoint: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} has no {what} that can be used: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Others may read a secret.
    #[error("{} may be read by others (mode {mode:o}): chmod 600 it", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A secret belongs to somebody else, who may read and change it.
    #[error("{} belongs to the user with the id {owner}, and neither to root nor to the one that this runs as: chown it", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The certificate and the key are not of each other, or cannot be used.
    #[error("the client certificate {} and its private key do not go together: {reason}", path.display())]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl EtcdAuth {
    /// Whether there is anything to look at again.
    pub(super) fn has_files(&self) -> bool {
        self.ca.is_some() || self.password_file.is_some()
    }

    /// Whether endpoints and files go together.
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
                "a client certificate",
                self.certificate.is_some(),
                "its key",
                self.key.is_some(),
            ),
            (
                "a user",
                self.user.is_some(),
                "a password file",
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
            .timeout(HANDSHAKE);
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
            // Whether the two go together is found out where they are put to use.
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

/// A file that nobody but its owner may read.
fn private(path: &Path) -> Result<Zeroizing<Vec<u8>>, EtcdAuthError> {
    let unreadable = |source| EtcdAuthError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    // Of what has been opened, whatever the path leads to by now.
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
            // Room for all of it at once, so that no copy is left behind by growing.
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
        "" => content(path, "password", Err("it is empty")),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}

fn check_authorities(path: &Path, pem: &[u8]) -> Result<(), EtcdAuthError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = content(path, "certificate of an authority", certificate)?;
        content(path, "certificate of an authority", roots.add(certificate))?;
    }
    match roots.is_empty() {
        true => content(path, "certificate of an authority", Err("there is none in PEM")),
        false => Ok(()),
    }
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
            (EtcdAuth::default(), &["http://a:1", "https://b:1"][..], "all as http"),
            (EtcdAuth::default(), &https, "--etcd-ca"),
            (with(|a, f| a.ca = f), &http, "write https"),
            (with(|a, f| a.certificate = f), &https, "without its key"),
            (with(|a, f| a.key = f), &https, "without a client certificate"),
            (with(|a, _| a.user = Some("u".into())), &http, "without a password file"),
            (with(|a, f| a.password_file = f), &http, "without a user"),
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
        assert!(access.load().unwrap_err().to_string().contains("it is empty"));
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
            assert!(error.contains("has no certificate of an authority"), "{error}");
        }
    }
}
