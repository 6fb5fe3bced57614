//! Test fixtures: authorities, nodes, credentials directories, and TLS handshakes over a pipe.

#![allow(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::credential_names::{CA, NODE, NODE_KEY};
use crate::{Authority, Credentials, CredentialsError, PrivateKey, Subject, certificate_pem, node_id};

const NOW: u64 = 1_750_000_000;

/// The wall-clock time of the tests.
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A temporary credentials directory.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Creates the directory.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("curator-credentials-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes the credentials of a node into it.
    pub fn write(&self, ca: &Authority, certificate: &[u8], key: &PrivateKey) {
        fs::write(self.0.join(CA), certificate_pem(ca.certificate())).unwrap();
        fs::write(self.0.join(NODE), certificate_pem(certificate)).unwrap();
        let path = self.0.join(NODE_KEY);
        let _ = fs::remove_file(&path);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).mode(0o600).open(path).unwrap();
        std::io::Write::write_all(&mut file, key.to_pem().as_bytes()).unwrap();
    }

    /// Loads the credentials.
    ///
    /// # Errors
    /// If they are rejected.
    pub fn load(&self) -> Result<Credentials, CredentialsError> {
        Credentials::load(&self.0, wall())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A new authority.
#[must_use]
pub fn authority() -> Authority {
    Authority::create("Metropolis Cluster CA", PrivateKey::generate().unwrap(), wall()).unwrap()
}

/// A node's key, id and certificate.
#[must_use]
pub fn node(ca: &Authority) -> (PrivateKey, String, Vec<u8>) {
    let key = PrivateKey::generate().unwrap();
    let public = *key.public_key();
    let id = node_id(&public).unwrap();
    let certificate = ca.issue(&Subject::node(&id), &public, wall()).unwrap();
    (key, id, certificate)
}

/// Does a TLS handshake over a pipe, and returns the result of each side.
pub async fn handshake(
    server: &Credentials,
    client: ClientConfig,
) -> (Result<Vec<Vec<u8>>, String>, Result<(), String>) {
    handshake_as(server, client, ServerName::try_from("anybody").unwrap()).await
}

/// The same with a server name.
pub async fn handshake_as(
    server: &Credentials,
    client: ClientConfig,
    name: ServerName<'static>,
) -> (Result<Vec<Vec<u8>>, String>, Result<(), String>) {
    let (here, there) = tokio::io::duplex(64 << 10);
    let accepting = async {
        let stream = TlsAcceptor::from(server.server()).accept(here).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(shown.iter().map(|certificate| certificate.to_vec()).collect())
    };
    let connecting = async {
        let mut stream = TlsConnector::from(Arc::new(client))
            .connect(name, there)
            .await
            .map_err(|error| error.to_string())?;
        // With TLS 1.3, the client learns of a rejection only here.
        tokio::io::AsyncWriteExt::flush(&mut stream)
            .await
            .map_err(|error| error.to_string())
    };
    tokio::join!(accepting, connecting)
}
