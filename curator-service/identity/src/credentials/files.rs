//! Certificates and keys in files, with checks of owner and mode.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::CredentialsError;
use crate::{PrivateKey, is_certificate};

/// The file names in a credentials directory.
pub mod names {
    /// The cluster's CA certificate.
    pub const CA: &str = "ca.pem";
    /// A node's certificate.
    pub const NODE: &str = "node.pem";
    /// A node's private key.
    pub const NODE_KEY: &str = "node-key.pem";
    /// A node's certificate, as the Go Curator names it.
    pub const GO_NODE: &str = "cert.pem";
    /// A node's private key, as the Go Curator names it.
    pub const GO_NODE_KEY: &str = "cert-key.pem";
    /// The private key with which a node rejoins after a restart.
    pub const JOIN_KEY: &str = "join-key.pem";
    /// The certificate of the cluster's owner.
    pub const OWNER: &str = "owner.pem";
    /// The private key of the cluster's owner.
    pub const OWNER_KEY: &str = "owner-key.pem";
}

/// Maximum size of a certificate or key file.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Mode bits: group or others have any access.
const OTHERS: u32 = 0o077;
/// Mode bits: group or others may write.
const OTHERS_WRITE: u32 = 0o022;
/// The uid of root.
const ROOT: u32 = 0;
/// Mode bit of a directory in which only owners may rename and remove files.
const STICKY: u32 = 0o1000;

/// The paths of a node's certificate and key: under the Go Curator's names if only those exist.
pub(super) fn of_node(directory: &Path) -> [PathBuf; 2] {
    let has = |name: &str| directory.join(name).symlink_metadata().is_ok();
    let is_go = has(names::GO_NODE) && !has(names::NODE);
    if is_go {
        [names::GO_NODE, names::GO_NODE_KEY]
    } else {
        [names::NODE, names::NODE_KEY]
    }
    .map(|name| directory.join(name))
}

/// Reads a certificate and returns it as DER. The file is PEM, of which the first certificate is read, or DER, which
/// the Go Curator writes.
///
/// # Errors
/// If the file cannot be read, other users may write it, or it contains no certificate.
pub fn read_certificate(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    let text = read(path, OTHERS_WRITE)?;
    if is_certificate(&text) {
        return Ok(text.to_vec());
    }
    let certificate = CertificateDer::from_pem_slice(&text).map_err(|error| CredentialsError::Pem {
        path: path.to_owned(),
        what: "certificate",
        reason: error.to_string(),
    })?;
    Ok(certificate.to_vec())
}

/// Reads an Ed25519 private key: PKCS #8 in PEM, or one of the Go Curator's formats for node and owner keys.
///
/// # Errors
/// If the file cannot be read, other users may read it, or it contains no such key. Errors never contain file contents.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, CredentialsError> {
    let text = read(path, OTHERS)?;
    PrivateKey::from_file(&text).map_err(|error| CredentialsError::Pem {
        path: path.to_owned(),
        what: "private key",
        reason: error.to_string(),
    })
}

/// Rejects a directory in which other users could replace files.
pub(super) fn check_directory(path: &Path) -> Result<(), CredentialsError> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    check_owner(path, &metadata)?;
    let mode = metadata.permissions().mode();
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        Err(CredentialsError::Permissions {
            path: path.to_owned(),
            mode: mode & 0o7777,
            may: "write to it",
            right: 0o700,
        })
    } else {
        Ok(())
    }
}

/// Rejects a file of another user than root or the current one: the owner may change a file whatever its mode.
fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), CredentialsError> {
    let own = rustix::process::geteuid().as_raw();
    match metadata.uid() {
        owner if owner != own && owner != ROOT => Err(CredentialsError::Owner {
            path: path.to_owned(),
            owner,
            own,
        }),
        _ => Ok(()),
    }
}

/// Reads a file, unless its mode has one of the `forbidden` bits.
fn read(path: &Path, forbidden: u32) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let failed = |source| unreadable(path, source);
    let file = File::open(path).map_err(failed)?;
    // Of the open file: the path may lead elsewhere meanwhile.
    let metadata = file.metadata().map_err(failed)?;
    check_owner(path, &metadata)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & forbidden != 0 {
        let (may, right) = match forbidden {
            OTHERS => ("read it", 0o600),
            _ => ("write it", 0o644),
        };
        return Err(CredentialsError::Permissions {
            path: path.to_owned(),
            mode,
            may,
            right,
        });
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {MAX_FILE_BYTES} bytes: not a key or certificate"),
        )));
    }
    // Full capacity at once: growing would leave copies in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize + 1));
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn unreadable(path: &Path, source: io::Error) -> CredentialsError {
    CredentialsError::Read {
        path: path.to_owned(),
        source,
    }
}

/// Encodes a certificate as PEM (RFC 7468).
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// A directory that credentials are written to. Existing files are never overwritten.
#[derive(Clone, Debug)]
pub struct CredentialsDirectory(PathBuf);

impl CredentialsDirectory {
    /// Opens the directory, and creates it with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// If it cannot be created, or other users may write to it.
    pub fn create(path: &Path) -> Result<Self, CredentialsError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| unwritable(path, source))?;
        check_directory(path)?;
        Ok(Self(path.to_owned()))
    }

    /// The path of a file in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether the file exists.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// Reads the private key with this name, or creates it. A new key is on disk before this returns.
    ///
    /// # Errors
    /// If the existing key is rejected, or a new one cannot be written.
    pub fn key(&self, name: &str) -> Result<PrivateKey, CredentialsError> {
        let path = self.path(name);
        if self.has(name) {
            return read_private_key(&path);
        }
        let key = PrivateKey::generate().map_err(|error| unwritable(&path, io::Error::other(error)))?;
        self.write(name, key.to_pem().as_bytes())?;
        Ok(key)
    }

    /// Writes a certificate.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn write_certificate(&self, name: &str, der: &[u8]) -> Result<(), CredentialsError> {
        self.write(name, certificate_pem(der).as_bytes())
    }

    /// Atomically and durably writes a new file with mode 0600.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CredentialsError> {
        let path = self.path(name);
        let partial = self.path(&format!(".{name}.new"));
        let written = (|| {
            // A leftover of a crash, or a file of another user, who could read what is written to it.
            match fs::remove_file(&partial) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Never an existing file or the target of a link.
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // Unlike a rename, a hard link does not replace an existing file.
            fs::hard_link(&partial, &path)?;
            fs::remove_file(&partial)?;
            File::open(&self.0)?.sync_all()
        })();
        written.map_err(|source| {
            // It may not exist.
            let _ = fs::remove_file(&partial);
            unwritable(&path, source)
        })
    }
}

fn unwritable(path: &Path, source: io::Error) -> CredentialsError {
    CredentialsError::Write {
        path: path.to_owned(),
        source,
    }
}
