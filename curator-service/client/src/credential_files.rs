//! Client credentials from files.

use std::path::{Path, PathBuf};

use curator_identity::{
    ClientCredentials, ClientError, CredentialsError, Trust, credential_names as names, read_certificate,
    read_private_key,
};

/// The files of a client: the cluster's CA certificate, and perhaps a certificate with its private key. Certificates
/// are PEM or DER, keys are PEM. A key that other users may read is refused.
#[derive(Clone, Debug)]
pub struct CredentialFiles {
    ca: PathBuf,
    certificate: Option<(PathBuf, PathBuf)>,
    accepts: Accepts,
}

/// Which nodes of the cluster are accepted as instances.
#[derive(Clone, Debug)]
enum Accepts {
    Proven,
    Members(Vec<String>),
    AnyNode,
}

/// Why credentials cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] CredentialsError),
    /// The certificate and the key do not match, or TLS cannot use them.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl CredentialFiles {
    /// The CA certificate alone: enough for methods without authorization. Any node that proves to be a consensus
    /// member is accepted as an instance ([`Trust::Instances`]).
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self {
            ca: ca.into(),
            certificate: None,
            accepts: Accepts::Proven,
        }
    }

    /// The credentials directory of a node: `ca.pem`, `node.pem` and `node-key.pem`.
    pub fn of_node(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        Self::new(directory.join(names::CA))
            .with_certificate(directory.join(names::NODE), directory.join(names::NODE_KEY))
    }

    /// A directory with the files of the owner: `ca.pem`, `owner.pem` and `owner-key.pem`.
    pub fn of_owner(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        Self::new(directory.join(names::CA))
            .with_certificate(directory.join(names::OWNER), directory.join(names::OWNER_KEY))
    }

    /// Presents this certificate, which the key belongs to.
    #[must_use]
    pub fn with_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Accepts only these nodes as instances ([`Trust::Members`]).
    #[must_use]
    pub fn accept_members(mut self, node_ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.accepts = Accepts::Members(node_ids.into_iter().map(Into::into).collect());
        self
    }

    /// Accepts any node of the cluster as an instance ([`Trust::Cluster`]): for clusters that the Go Curator leads,
    /// which has no proof of membership.
    #[must_use]
    pub fn accept_any_node(mut self) -> Self {
        self.accepts = Accepts::AnyNode;
        self
    }

    /// Which servers are accepted.
    ///
    /// # Errors
    /// If the CA certificate cannot be read.
    pub fn trust(&self) -> Result<Trust, LoadError> {
        let ca = read_certificate(&self.ca)?;
        Ok(match &self.accepts {
            Accepts::Proven => Trust::Instances { ca },
            Accepts::AnyNode => Trust::Cluster { ca },
            Accepts::Members(node_ids) => Trust::Members {
                ca,
                node_ids: node_ids.clone(),
            },
        })
    }

    /// Reads the files. It blocks for as long as that takes.
    ///
    /// # Errors
    /// If a file cannot be read or used, or the key does not belong to the certificate.
    pub fn load(&self) -> Result<ClientCredentials, LoadError> {
        let trust = self.trust()?;
        Ok(match &self.certificate {
            None => ClientCredentials::anonymous(trust)?,
            Some((certificate, key)) => {
                ClientCredentials::with_certificate(trust, read_certificate(certificate)?, &read_private_key(key)?)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use curator_identity::testing::{Directory, authority, node};

    use super::*;

    #[test]
    fn files_of_a_node_are_loaded() {
        let (ca, directory) = (authority(), Directory::new("client-files"));
        let (key, node_id, certificate) = node(&ca);
        directory.write(&ca, &certificate, &key);
        let files = CredentialFiles::of_node(directory.path());
        files.load().expect("a node's files");
        let ca = ca.certificate().to_vec();
        assert_eq!(files.trust().expect("a CA"), Trust::Instances { ca: ca.clone() });
        let any = files.clone().accept_any_node().trust().expect("a CA");
        assert_eq!(any, Trust::Cluster { ca: ca.clone() });
        let members = files.accept_members([node_id.clone()]).trust().expect("a CA");
        assert_eq!(
            members,
            Trust::Members {
                ca,
                node_ids: vec![node_id]
            }
        );
        let error = CredentialFiles::of_owner(directory.path())
            .load()
            .expect_err("no owner here");
        assert!(error.to_string().contains(names::OWNER), "{error}");
    }
}
