//! Whose a certificate is, for those who look at one.

use std::fmt;
use std::time::SystemTime;

use crate::{Identity, VerifyError, verify};

/// Whom a certificate of the cluster is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertifiedAs {
    /// A node, by its id.
    Node(String),
    /// A user, by their name.
    User(String),
}

impl fmt::Display for CertifiedAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node {id}"),
            Self::User(name) => write!(f, "user {name}"),
        }
    }
}

/// The cluster does not stand behind a certificate, or not at that time.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotCertified(#[from] VerifyError);

/// Whom a certificate is for, if the authority with the certificate `ca` has made it and it is valid at `now`; both are DER.
///
/// # Errors
/// It is not the cluster's, or not valid at that time.
pub fn verify_certificate(certificate: &[u8], ca: &[u8], now: SystemTime) -> Result<CertifiedAs, NotCertified> {
    Ok(match verify(certificate, ca, now)? {
        Identity::Node { id, .. } => CertifiedAs::Node(id),
        Identity::User { name } => CertifiedAs::User(name),
    })
}
