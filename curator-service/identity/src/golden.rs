//! Interoperability with OpenSSL: its certificates are accepted, ours have the same fields, and OpenSSL accepts ours.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::*;

use super::*;
use crate::credentials::files::certificate_pem;

/// In 2026.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

macro_rules! golden {
    ($name:literal) => {
        der(include_str!(concat!("golden/", $name, ".pem")))
    };
}

#[test]
fn what_openssl_has_made_is_accepted_by_the_rules() {
    let (ca, other) = (golden!("ca"), golden!("other-ca"));
    let (node, owner, ephemeral) = (golden!("node"), golden!("owner"), golden!("ephemeral"));
    let public_key = public_key_of(&node).unwrap();
    let id = node_id(&public_key).unwrap();
    assert_eq!(verify(&node, &ca, now()), Ok(Identity::Node { id, public_key }));
    assert_eq!(verify(&owner, &ca, now()), Ok(Identity::User { name: "owner".into() }));
    assert_eq!(self_signed_key(&ephemeral), public_key_of(&ephemeral));
    assert!(self_signed_key(&ephemeral).is_some());
    // Rejections.
    for certificate in [&node, &owner, &ephemeral] {
        assert_eq!(verify(certificate, &other, now()), Err(VerifyError::Signature));
    }
    assert_eq!(verify(&ephemeral, &ca, now()), Err(VerifyError::Signature));
    assert_eq!(verify(&golden!("ecdsa"), &ca, now()), Err(VerifyError::KeyKind));
    assert_eq!(verify(&ca, &ca, now()), Err(VerifyError::Authority));
    assert_eq!(self_signed_key(&owner), None);
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_000_000);
    assert!(matches!(verify(&node, &ca, before), Err(VerifyError::NotYet { .. })));
    assert_eq!(verify(&node, &owner, now()), Err(VerifyError::NoAuthority));
}

/// A certificate of each kind: ours and OpenSSL's.
fn pairs() -> [(&'static str, Vec<u8>, Vec<u8>); 4] {
    let ca = Authority::create("Metropolis Cluster CA", PrivateKey::generate().unwrap(), now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let id = node_id(key.public_key()).unwrap();
    let issue = |subject: &Subject| ca.issue(subject, key.public_key(), now()).unwrap();
    [
        ("ca", ca.certificate().to_vec(), golden!("ca")),
        ("node", issue(&Subject::node(&id)), golden!("node")),
        ("owner", issue(&Subject::user("owner")), golden!("owner")),
        ("ephemeral", ephemeral(&key, now()).unwrap(), golden!("ephemeral")),
    ]
}

#[test]
fn ours_have_the_same_fields() {
    for (kind, ours, theirs) in pairs() {
        let read = |der: &[u8]| {
            let (_, certificate) = X509Certificate::from_der(der).unwrap();
            let mut extensions: Vec<_> = certificate
                .extensions()
                .iter()
                .map(|extension| {
                    // Extensions that differ in each certificate are compared by kind, all others by value.
                    let value = match extension.parsed_extension() {
                        ParsedExtension::SubjectKeyIdentifier(_)
                        | ParsedExtension::AuthorityKeyIdentifier(_)
                        | ParsedExtension::SubjectAlternativeName(_) => Vec::new(),
                        _ => extension.value.to_vec(),
                    };
                    (extension.oid.to_id_string(), extension.critical, value)
                })
                .collect();
            extensions.sort();
            let end = certificate.validity().not_after.timestamp();
            (certificate.version(), certificate.issuer().to_string(), end, extensions)
        };
        assert_eq!(read(&ours), read(&theirs), "{kind}");
    }
}

#[test]
fn openssl_accepts_ours() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: openssl is not installed");
        return;
    }
    let directory = std::env::temp_dir().join(format!("curator-golden-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = |kind: &str| directory.join(format!("{kind}.pem"));
    for (kind, ours, _) in pairs() {
        std::fs::write(path(kind), certificate_pem(&ours)).unwrap();
    }
    let accepts = |authority: &Path, kind: &str, purpose: &str| {
        let verified = Command::new("openssl")
            .args(["verify", "-purpose", purpose, "-CAfile"])
            .args([authority, &path(kind)])
            .output()
            .unwrap();
        assert!(
            verified.status.success(),
            "{kind}: {}",
            String::from_utf8_lossy(&verified.stderr)
        );
    };
    accepts(&path("ca"), "ca", "any");
    accepts(&path("ca"), "node", "sslserver");
    accepts(&path("ca"), "owner", "sslclient");
    std::fs::remove_dir_all(&directory).unwrap();
}
