//! Certificates and keys in files: read with a look at who else may, and written so that nobody else can.

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

/// The names that credentials have in their directory.
pub mod names {
    /// The certificate of the cluster's authority.
    pub const CA: &str = "ca.pem";
    /// A node's certificate.
    pub const NODE: &str = "node.pem";
    /// A node's private key.
    pub const NODE_KEY: &str = "node-key.pem";
    /// A node's certificate, as the original calls it.
    pub const ORIGINALS_NODE: &str = "cert.pem";
    /// A node's private key, as the original calls it.
    pub const ORIGINALS_NODE_KEY: &str = "cert-key.pem";
    /// The private key that a node joins with after a restart.
    pub const JOIN_KEY: &str = "join-key.pem";
    /// The certificate of the cluster's owner.
    pub const OWNER: &str = "owner.pem";
    /// The private key of the cluster's owner.
    pub const OWNER_KEY: &str = "owner-key.pem";
}

/// No certificate and no key is longer, and what is, is something else.
const LONGEST: u64 = 64 << 10;
/// Others may read, or write.
const OTHERS: u32 = 0o077;
/// Others may write.
const OTHERS_WRITE: u32 = 0o022;
/// May everything on this host anyway.
const ROOT: u32 = 0;
/// In a directory: files are renamed and removed by their owners alone.
const STICKY: u32 = 0o1000;

/// Where a node's certificate and key are in a directory: under the original's names if it has those alone.
pub(super) fn of_node(directory: &Path) -> [PathBuf; 2] {
    let has = |name: &str| directory.join(name).symlink_metadata().is_ok();
    let is_originals = has(names::ORIGINALS_NODE) && !has(names::NODE);
    match is_originals {
        true => [names::ORIGINALS_NODE, names::ORIGINALS_NODE_KEY],
        false => [names::NODE, names::NODE_KEY],
    }
    .map(|name| directory.join(name))
}

/// Reads a certificate as DER: the first one in PEM in the file, or DER and nothing else, as the original keeps it.
///
/// # Errors
/// The file cannot be read, others may write it, or there is no certificate in it.
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

/// Reads an Ed25519 private key: PKCS #8 in PEM, or as the original keeps those of its nodes and of its owner.
///
/// # Errors
/// The file cannot be read, others may read it, or there is no such key in it. No error shows any of the file.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, CredentialsError> {
    let text = read(path, OTHERS)?;
    PrivateKey::from_file(&text).map_err(|error| CredentialsError::Pem {
        path: path.to_owned(),
        what: "private key",
        reason: error.to_string(),
    })
}

/// Refuses a directory in which others could put another file in the place of one.
pub(super) fn check_directory(path: &Path) -> Result<(), CredentialsError> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    check_owner(path, &metadata)?;
    let mode = metadata.permissions().mode();
    match mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        true => Err(CredentialsError::Permissions {
            path: path.to_owned(),
            mode: mode & 0o7777,
            may: "change what is in it",
            right: 0o700,
        }),
        false => Ok(()),
    }
}

/// Refuses what belongs to neither the user that this runs as nor root: its owner may change it at any time, whatever its mode.
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

/// The whole file, if nobody has the permissions in `none` on it.
fn read(path: &Path, none: u32) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let failed = |source| unreadable(path, source);
    let file = File::open(path).map_err(failed)?;
    // Of what has been opened, whatever the path leads to by now.
    let metadata = file.metadata().map_err(failed)?;
    check_owner(path, &metadata)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & none != 0 {
        let (may, right) = match none {
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
    if metadata.len() > LONGEST {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {LONGEST} bytes, which no key or certificate is"),
        )));
    }
    // Room for all of it at once, so that no copy is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    file.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn unreadable(path: &Path, source: io::Error) -> CredentialsError {
    CredentialsError::Read {
        path: path.to_owned(),
        source,
    }
}

/// A certificate as RFC 7468 has it.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// A directory that credentials are written into. What is there is never written over.
#[derive(Clone, Debug)]
pub struct CredentialsDirectory(PathBuf);

impl CredentialsDirectory {
    /// The directory, made with mode 700 if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or others may change what is in it.
    pub fn create(path: &Path) -> Result<Self, CredentialsError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| unwritable(path, source))?;
        check_directory(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Where the file with this name is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether there is a file with this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// The private key with this name: the one that is there, or else a new one, which is on the disk by then.
    ///
    /// # Errors
    /// The one that is there cannot be used, or a new one cannot be written.
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
    /// There is a file with this name, or it cannot be written.
    pub fn write_certificate(&self, name: &str, der: &[u8]) -> Result<(), CredentialsError> {
        self.write(name, certificate_pem(der).as_bytes())
    }

    /// Writes a file that is new, and which nobody else may read: all of it or nothing, also if the power fails.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CredentialsError> {
        let path = self.path(name);
        let partial = self.path(&format!(".{name}.new"));
        let written = (|| {
            // One that a crash has left behind, or that somebody has made, who could read what is written to it.
            match fs::remove_file(&partial) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Neither a file that is there nor what a link leads to.
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // Unlike renaming, this does not take the place of a file that is there.
            fs::hard_link(&partial, &path)?;
            fs::remove_file(&partial)?;
            File::open(&self.0)?.sync_all()
        })();
        written.map_err(|source| {
            // There may be none.
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
