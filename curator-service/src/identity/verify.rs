//! Certificates and lists as they come: whether they are any, and whose.

use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// Whether this is a certificate and nothing else.
pub(crate) fn is_certificate(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(rest, _)| rest.is_empty())
}

/// Whether this is a list of revoked certificates and nothing else.
pub(crate) fn is_crl(der: &[u8]) -> bool {
    CertificateRevocationList::from_der(der).is_ok_and(|(rest, _)| rest.is_empty())
}

/// The Ed25519 key that a certificate is for; `None` if it is no certificate, or for another kind of key.
pub(crate) fn public_key_of(der: &[u8]) -> Option<[u8; 32]> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    let key = certificate.public_key();
    if !rest.is_empty() || key.algorithm.algorithm != OID_SIG_ED25519 {
        return None;
    }
    key.subject_public_key.data.as_ref().try_into().ok()
}
