//! Parsing and verification of certificates and revocation lists.
//!
//! The rules are those of the Go Curator with one addition: the validity period is checked. The start of the period
//! may be slightly in the future, because clocks differ.

use std::time::{Duration, SystemTime};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_SIG_ED25519, Oid};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{node_id, signatures};

/// Maximum difference between the clock of the issuer and the local one.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// The extension that marks the certificate of a consensus member: a random number below the arc for UUIDs (ITU-T
/// X.667).
pub(super) const MEMBER: &[u64] = &[2, 25, 6_917_202_553_071_401_337];

/// Why a certificate is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The bytes are not exactly one X.509 certificate in DER.
    #[error("not an X.509 certificate")]
    Malformed,
    /// The key is not an Ed25519 key.
    #[error("the certificate's key is not Ed25519")]
    KeyKind,
    /// The cluster's certificate is not a CA certificate.
    #[error("cluster certificate is not a CA certificate")]
    NoAuthority,
    /// The signature is not the CA's.
    #[error("not signed by the cluster's CA")]
    Signature,
    /// It is a CA certificate.
    #[error("a CA certificate cannot identify a node or a user")]
    Authority,
    /// The validity period starts later.
    #[error("not valid before {valid_from}")]
    NotYet {
        /// The start of the validity period.
        valid_from: String,
    },
    /// The validity period is over.
    #[error("certificate has expired")]
    Expired,
    /// Extended key usage and names match neither a node nor a user.
    #[error("neither a node certificate nor a user certificate")]
    NeitherNodeNorUser,
}

/// The identity in a certificate of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A node.
    Node {
        /// Node id.
        id: String,
        /// Public key.
        public_key: [u8; 32],
    },
    /// A user.
    User {
        /// User name.
        name: String,
    },
}

/// Verifies a certificate (DER) against the cluster's CA certificate (DER), and returns the identity in it.
///
/// # Errors
/// If the certificate is rejected.
pub fn verify(der: &[u8], ca: &[u8], now: SystemTime) -> Result<Identity, VerifyError> {
    let certificate = parsed(der)?;
    let public_key = ed25519(&certificate).ok_or(VerifyError::KeyKind)?;
    let pair = signatures::Pair::of(der, ca);
    if !signatures::is_verified(&pair) {
        signed_by(&certificate, ca)?;
        signatures::set_verified(pair);
    }
    if certificate.is_ca() {
        return Err(VerifyError::Authority);
    }
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    if certificate.validity().not_before.timestamp() > seconds(now + MAX_CLOCK_SKEW) {
        return Err(VerifyError::NotYet {
            valid_from: certificate.validity().not_before.to_string(),
        });
    }
    if certificate.validity().not_after.timestamp() < seconds(now) {
        return Err(VerifyError::Expired);
    }
    // The extended key usage tells nodes from users.
    let usage = certificate.extended_key_usage().ok().flatten();
    let (server, client) = usage.map_or((false, false), |usage| {
        (usage.value.server_auth, usage.value.client_auth)
    });
    let name = common_name(&certificate).unwrap_or_default();
    let id = node_id(&public_key).unwrap_or_default();
    if server && name == id && has_dns_name(&certificate, &id) {
        return Ok(Identity::Node { id, public_key });
    }
    if client && !name.is_empty() {
        return Ok(Identity::User { name: name.to_owned() });
    }
    Err(VerifyError::NeitherNodeNorUser)
}

/// Whether a verified certificate marks its node as a consensus member.
#[must_use]
pub fn is_member_certificate(der: &[u8]) -> bool {
    let Ok(member) = Oid::from(MEMBER) else { return false };
    parsed(der).is_ok_and(|certificate| matches!(certificate.get_extension_unique(&member), Ok(Some(_))))
}

/// The validity period of a certificate, in seconds since 1970.
#[must_use]
pub fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let certificate = parsed(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The end of the validity period, in seconds since 1970.
#[must_use]
pub fn ends_at(der: &[u8]) -> Option<i64> {
    validity(der).map(|(_, end)| end)
}

/// The key of a self-signed certificate, which proves that its holder has the key.
#[must_use]
pub fn self_signed_key(der: &[u8]) -> Option<[u8; 32]> {
    let certificate = parsed(der).ok()?;
    let key = ed25519(&certificate)?;
    certificate.verify_signature(None).ok()?;
    Some(key)
}

/// Whether the bytes are exactly one certificate.
#[must_use]
pub fn is_certificate(der: &[u8]) -> bool {
    parsed(der).is_ok()
}

/// Whether the bytes are exactly one certificate revocation list.
#[must_use]
pub fn is_crl(der: &[u8]) -> bool {
    CertificateRevocationList::from_der(der).is_ok_and(|(rest, _)| rest.is_empty())
}

/// The Ed25519 key of a certificate; `None` if it is not a certificate, or has another kind of key.
#[must_use]
pub fn public_key_of(der: &[u8]) -> Option<[u8; 32]> {
    ed25519(&parsed(der).ok()?)
}

fn parsed(der: &[u8]) -> Result<X509Certificate<'_>, VerifyError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(VerifyError::Malformed),
    }
}

fn ed25519(certificate: &X509Certificate<'_>) -> Option<[u8; 32]> {
    let key = certificate.public_key();
    if key.algorithm.algorithm != OID_SIG_ED25519 {
        return None;
    }
    key.subject_public_key.data.as_ref().try_into().ok()
}

fn signed_by(certificate: &X509Certificate<'_>, ca: &[u8]) -> Result<(), VerifyError> {
    let ca = parsed(ca).map_err(|_| VerifyError::NoAuthority)?;
    let constraints = ca.basic_constraints().ok().flatten();
    let usage = ca.key_usage().ok().flatten();
    let is_authority = ed25519(&ca).is_some()
        && constraints.is_some_and(|constraints| constraints.value.ca)
        && usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !is_authority {
        return Err(VerifyError::NoAuthority);
    }
    certificate
        .verify_signature(Some(ca.public_key()))
        .map_err(|_| VerifyError::Signature)
}

fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    certificate.subject().iter_common_name().next()?.as_str().ok()
}

fn has_dns_name(certificate: &X509Certificate<'_>, wanted: &str) -> bool {
    let names = certificate.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| {
        names
            .value
            .general_names
            .iter()
            .any(|name| matches!(name, GeneralName::DNSName(name) if *name == wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, PrivateKey, Subject};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const NOW: u64 = 1_750_000_000;

    fn authority() -> Authority {
        Authority::create("Metropolis Cluster CA", PrivateKey::generate().unwrap(), at(NOW)).unwrap()
    }

    #[test]
    fn nodes_and_users_of_the_cluster_are_known() {
        let ca = authority();
        let id = node_id(&[7; 32]).unwrap();
        let verified = |subject: &Subject| {
            let der = ca.issue(subject, &[7; 32], at(NOW)).unwrap();
            verify(&der, ca.certificate(), at(NOW))
        };
        let node = Identity::Node {
            id: id.clone(),
            public_key: [7; 32],
        };
        assert_eq!(verified(&Subject::node(&id)), Ok(node));
        let user = Identity::User { name: "owner".into() };
        assert_eq!(verified(&Subject::user("owner")), Ok(user));
        let neither = Err(VerifyError::NeitherNodeNorUser);
        // Another's id, no name, nothing that it is for.
        assert_eq!(verified(&Subject::node(&node_id(&[8; 32]).unwrap())), neither);
        assert_eq!(verified(&Subject::user("")), neither);
        let no_dns_name = Subject {
            dns_name: None,
            ..Subject::node(&id)
        };
        assert_eq!(verified(&no_dns_name), neither);
        let for_nothing = Subject {
            server: false,
            ..Subject::node(&id)
        };
        assert_eq!(verified(&for_nothing), neither);
    }

    #[test]
    fn what_the_cluster_does_not_stand_behind_is_refused() {
        let (ca, other) = (authority(), authority());
        let good = ca.issue(&Subject::user("owner"), &[7; 32], at(NOW)).unwrap();
        let by = |der: &[u8], ca: &[u8], now| verify(der, ca, at(now)).unwrap_err();
        assert_eq!(by(&good, other.certificate(), NOW), VerifyError::Signature);
        assert_eq!(by(&good, &good, NOW), VerifyError::NoAuthority);
        assert_eq!(by(&good, b"", NOW), VerifyError::NoAuthority);
        assert_eq!(by(ca.certificate(), ca.certificate(), NOW), VerifyError::Authority);
        assert_eq!(
            by(&good[..good.len() - 1], ca.certificate(), NOW),
            VerifyError::Malformed
        );
        assert_eq!(
            by(&[&good[..], b"x"].concat(), ca.certificate(), NOW),
            VerifyError::Malformed
        );
        let mut bent = good.clone();
        let last = bent.len() - 1;
        bent[last] ^= 1;
        assert_eq!(by(&bent, ca.certificate(), NOW), VerifyError::Signature);
        assert!(matches!(
            by(&good, ca.certificate(), NOW - 301),
            VerifyError::NotYet { .. }
        ));
        verify(&good, ca.certificate(), at(NOW - 300)).expect("clocks differ");
        assert_eq!(by(&good, ca.certificate(), 253_402_300_800), VerifyError::Expired);
    }

    /// That a signature was found good before is good for nothing else.
    #[test]
    fn what_was_found_good_once_is_looked_at_again() {
        let (ca, other) = (authority(), authority());
        let good = ca.issue(&Subject::user("owner"), &[7; 32], at(NOW)).unwrap();
        verify(&good, ca.certificate(), at(NOW)).expect("it is good");
        let by = |der: &[u8], ca: &[u8], now| verify(der, ca, at(now)).unwrap_err();
        assert_eq!(by(&good, other.certificate(), NOW), VerifyError::Signature);
        assert_eq!(by(&good, ca.certificate(), 253_402_300_800), VerifyError::Expired);
        // What is signed, and the signature; between them stands an algorithm that says nothing.
        for byte in (0..good.len() - 75).chain(good.len() - 64..good.len()) {
            let mut bent = good.clone();
            bent[byte] ^= 1;
            verify(&bent, ca.certificate(), at(NOW)).expect_err("it is another");
        }
    }

    #[test]
    fn membership_is_said_by_the_authority_and_for_a_while() {
        let ca = authority();
        let id = node_id(&[7; 32]).unwrap();
        let member = ca.issue_member(&id, &[7; 32], at(NOW), at(NOW + 60)).unwrap();
        assert!(is_member_certificate(&member));
        let node = Identity::Node {
            id: id.clone(),
            public_key: [7; 32],
        };
        assert_eq!(verify(&member, ca.certificate(), at(NOW + 60)), Ok(node));
        let late = verify(&member, ca.certificate(), at(NOW + 61));
        assert_eq!(late, Err(VerifyError::Expired));
        assert!(!is_member_certificate(
            &ca.issue(&Subject::node(&id), &[7; 32], at(NOW)).unwrap()
        ));
        assert!(!is_member_certificate(b""));
    }

    #[test]
    fn a_key_is_shown_by_a_certificate_that_it_has_signed() {
        let ca = authority();
        let key = *ca.key().public_key();
        assert_eq!(self_signed_key(ca.certificate()), Some(key));
        let issued = ca.issue(&Subject::user("owner"), &[7; 32], at(NOW)).unwrap();
        assert_eq!(self_signed_key(&issued), None);
        assert_eq!(self_signed_key(b"\x30\x00"), None);
    }
}
