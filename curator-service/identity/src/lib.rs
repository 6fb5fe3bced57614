//! Identities in a cluster: node ids, Ed25519 keys, certificates, and TLS with them.
//!
//! [`verify`] checks a certificate, [`Authority`] issues one, [`Credentials`] holds the files of a node, and
//! [`ClientCredentials`] connects to a cluster:
//!
//! ```no_run
//! use std::path::Path;
//! use curator_identity::{ClientCredentials, Trust, read_certificate, read_private_key};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let trust = Trust::Instances { ca: read_certificate(Path::new("ca.pem"))? };
//! let certificate = read_certificate(Path::new("owner.pem"))?;
//! let key = read_private_key(Path::new("owner-key.pem"))?;
//! let owner = ClientCredentials::with_certificate(trust, certificate, &key)?;
//! let channel = owner.channel("192.0.2.1:7835")?;
//! # drop(channel);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

mod authority;
mod client;
mod credentials;
#[cfg(test)]
mod golden;
mod hex;
mod key;
pub mod pushback;
mod signatures;
mod subject;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verify;

pub use authority::{Authority, AuthorityError, Subject, ephemeral};
pub use client::{ClientCredentials, ClientError, Connector, Trust};
pub use credentials::files::{
    CredentialsDirectory, certificate_pem, names as credential_names, read_certificate, read_private_key,
};
pub use credentials::replace::replace_certificate;
pub use credentials::verifier::{ExpectedServer, NO_PROOF, NodeVerifier};
pub use credentials::{Credentials, CredentialsError, CredentialsWatch, NotRecognized, recognized};
pub use hex::hex;
pub use key::{KeyError, PrivateKey};
pub use pushback::{retry_delay, with_retries};
pub use subject::{CertificateSubject, verify_certificate};
pub use verify::{
    Identity, VerifyError, ends_at, is_certificate, is_crl, is_member_certificate, public_key_of, self_signed_key,
    validity, verify,
};

/// The wall clock, for messages and for the validity of certificates. Terms and deadlines use a monotonic clock
/// instead.
#[allow(clippy::disallowed_methods, reason = "certificates have no other clock")]
#[must_use]
pub fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// The default port of the Curator.
pub const CURATOR_PORT: u16 = 7835;

/// The id of the node with this public key; `None` if the key is not 32 bytes long.
///
/// The id is derived from the first half of the key only, so two keys can share an id.
#[must_use]
pub fn node_id(public_key: &[u8]) -> Option<String> {
    let half = public_key.get(..16).filter(|_| public_key.len() == 32)?;
    Some(format!("metropolis-{}", hex(half)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_first_half_of_the_key() {
        let key: Vec<u8> = (0..32).collect();
        assert_eq!(
            node_id(&key).as_deref(),
            Some("metropolis-000102030405060708090a0b0c0d0e0f")
        );
        assert_eq!(node_id(&key[..31]), None);
        assert_eq!(node_id(&[]), None);
    }
}
