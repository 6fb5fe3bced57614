//! A certificate that ends is renewed before its end, by the instance that uses it: the leader and a follower.

use std::fs;

use curator_harness::Event;
use curator_service::{certificate_pem, credential_names as names};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ED25519};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::cluster::{Node, TlsCluster};
use super::refusals::Forge;
use crate::test_cluster::SOON;

/// The year until which a certificate is valid.
fn ends(node: &Node) -> i32 {
    let der = node.certificate();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    certificate.validity().not_after.to_datetime().year()
}

#[test]
fn a_certificate_that_ends_soon_is_renewed_by_its_instance() {
    let cast = TlsCluster::new("tls-renewal", |options| options);
    let forge = Forge::of(&cast);
    for instance in cast.leader_and_follower() {
        let node = &cast.nodes[instance];
        let key = fs::read(node.directory.join(names::NODE_KEY)).unwrap();
        let key = PrivatePkcs8KeyDer::from_pem_slice(&key).unwrap();
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).unwrap();
        let now = OffsetDateTime::now_utc();
        // Of ten hours one is left.
        let short = forge.user(&key, |params| {
            *params = CertificateParams::new(vec![node.id.clone()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, node.id.as_str());
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.not_before = now - Duration::hours(9);
            params.not_after = now + Duration::hours(1);
        });
        let mark = cast.stage.curators[instance].mark();
        let (path, next) = (node.directory.join(names::NODE), node.directory.join("next"));
        fs::write(&next, certificate_pem(&short)).unwrap();
        fs::rename(next, path).unwrap();
        for what in ["the node's certificate was renewed", "credentials reloaded"] {
            cast.stage.curators[instance]
                .wait_for(mark, SOON, what, |event: &Event| event.text.contains(what))
                .unwrap();
        }
        assert_eq!(ends(node), 9999);
        let (_, metrics) = cast.stage.curators[instance].observed("/metrics", SOON).unwrap();
        let counted = "curator_certificates_renewed_total{outcome=\"ok\"} 1";
        assert!(metrics.contains(counted), "{metrics}");
    }
}
