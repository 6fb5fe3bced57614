//! Certificates and lists as they come: whether they are any, whose, and whether the cluster stands behind them.
//!
//! The rules are the original's, and stricter in one thing: a certificate counts from its beginning to its end, where the
//! original does not look at the time. A beginning may be a little ahead, because clocks differ.

use std::time::{Duration, SystemTime};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_SIG_ED25519, Oid};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{node_id, signatures};

/// How far ahead of this clock the one of whoever has made a certificate may be.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// The extension of a certificate whose node is a member of the consensus while it is valid: a number drawn at random, below the arc that
/// is there for such (ITU-T X.667).
pub(super) const MEMBER: &[u64] = &[2, 25, 6_917_202_553_071_401_337];

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is no X.509 certificate in DER, or there is more than one.
    #[error("it is no certificate")]
    Malformed,
    /// Its key is of another kind than Ed25519.
    #[error("its key is not Ed25519")]
    KeyKind,
    /// The cluster's certificate is not a CA certificate.
    #[error("the cluster's own certificate is none of an authority")]
    NoAuthority,
    /// Another authority has signed it, or it was changed since.
    #[error("it is not signed by the cluster's authority")]
    Signature,
    /// It is a CA certificate.
    #[error("it is an authority's")]
    Authority,
    /// It begins later, by this clock.
    #[error("it is not valid yet, but from {valid_from} on")]
    NotYet {
        /// When it begins.
        valid_from: String,
    },
    /// It has ended.
    #[error("it is not valid any more")]
    Expired,
    /// Its extended key usage and its names are those of neither.
    #[error("it is neither a node's nor a user's")]
    NeitherNodeNorUser,
}

/// Whom a certificate of the cluster is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A node.
    Node {
        /// Its id.
        id: String,
        /// Its key.
        public_key: [u8; 32],
    },
    /// A user.
    User {
        /// Their name.
        name: String,
    },
}

/// Whom a certificate is for, if the cluster's authority has made it and it is valid now; all DER.
///
/// # Errors
/// It proves nothing.
pub fn verify(der: &[u8], ca: &[u8], now: SystemTime) -> Result<Identity, VerifyError> {
    let certificate = parsed(der)?;
    let public_key = ed25519(&certificate).ok_or(VerifyError::KeyKind)?;
    let pair = signatures::Pair::of(der, ca);
    if !signatures::is_good(&pair) {
        signed_by(&certificate, ca)?;
        signatures::is_found_good(pair);
    }
    if certificate.is_ca() {
        return Err(VerifyError::Authority);
    }
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    if certificate.validity().not_before.timestamp() > seconds(now + AHEAD) {
        return Err(VerifyError::NotYet {
            valid_from: certificate.validity().not_before.to_string(),
        });
    }
    if certificate.validity().not_after.timestamp() < seconds(now) {
        return Err(VerifyError::Expired);
    }
    // What a certificate is for is the one thing that tells nodes and users apart.
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

/// Whether a certificate that has been verified says that its node is a member of the consensus.
#[must_use]
pub fn says_member(der: &[u8]) -> bool {
    let Ok(member) = Oid::from(MEMBER) else { return false };
    parsed(der).is_ok_and(|certificate| matches!(certificate.get_extension_unique(&member), Ok(Some(_))))
}

/// From and until when a certificate is valid, in seconds since 1970.
#[must_use]
pub fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let certificate = parsed(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Until when a certificate is valid, in seconds since 1970.
#[must_use]
pub fn ends_at(der: &[u8]) -> Option<i64> {
    validity(der).map(|(_, end)| end)
}

/// The key that a certificate signed by itself shows its holder to have.
#[must_use]
pub fn self_signed_key(der: &[u8]) -> Option<[u8; 32]> {
    let certificate = parsed(der).ok()?;
    let key = ed25519(&certificate)?;
    certificate.verify_signature(None).ok()?;
    Some(key)
}

/// Whether this is a certificate and nothing else.
#[must_use]
pub fn is_certificate(der: &[u8]) -> bool {
    parsed(der).is_ok()
}

/// Whether this is a list of revoked certificates and nothing else.
#[must_use]
pub fn is_crl(der: &[u8]) -> bool {
    CertificateRevocationList::from_der(der).is_ok_and(|(rest, _)| rest.is_empty())
}

/// The Ed25519 key that a certificate is for; `None` if it is no certificate, or for another kind of key.
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
        assert!(says_member(&member));
        let node = Identity::Node {
            id: id.clone(),
            public_key: [7; 32],
        };
        assert_eq!(verify(&member, ca.certificate(), at(NOW + 60)), Ok(node));
        let late = verify(&member, ca.certificate(), at(NOW + 61));
        assert_eq!(late, Err(VerifyError::Expired));
        assert!(!says_member(&ca.issue(&Subject::node(&id), &[7; 32], at(NOW)).unwrap()));
        assert!(!says_member(b""));
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
