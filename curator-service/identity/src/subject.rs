//! Verification of a single certificate, for tools.

use std::fmt;
use std::time::SystemTime;

use crate::{Identity, VerifyError, verify};

/// The subject of a certificate of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSubject {
    /// A node, by its id.
    Node(String),
    /// A user, by name.
    User(String),
}

impl fmt::Display for CertificateSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::User(name) => write!(f, "user {name}"),
        }
    }
}

/// Verifies that the CA issued the certificate and that the certificate is valid at `now`, and returns its subject.
/// `certificate` and `ca` are DER.
///
/// # Errors
/// If the CA did not issue the certificate, or the certificate is not valid at `now`.
pub fn verify_certificate(certificate: &[u8], ca: &[u8], now: SystemTime) -> Result<CertificateSubject, VerifyError> {
    Ok(match verify(certificate, ca, now)? {
        Identity::Node { id, .. } => CertificateSubject::Node(id),
        Identity::User { name } => CertificateSubject::User(name),
    })
}
