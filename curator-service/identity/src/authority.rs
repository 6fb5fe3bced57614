//! Certificate authorities. The certificate fields are those of the Go Curator, so that each accepts the other's
//! certificates.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SerialNumber,
    SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::key::{KeyError, PrivateKey};
use super::verify::{MEMBER, public_key_of};

/// 9999-12-31T23:59:59Z: no expiration (RFC 5280, section 4.1.2.5).
const NEVER: i64 = 253_402_300_799;
/// How far in the past the validity of a certificate for standard clients starts.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// The subject and usages of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The common name: a node's id, or a user's name.
    pub common_name: String,
    /// The organization, if any.
    pub organization: Option<String>,
    /// The DNS name, if any.
    pub dns_name: Option<String>,
    /// Usage: client authentication.
    pub client: bool,
    /// Usage: server authentication.
    pub server: bool,
}

impl Subject {
    /// A node of the cluster. It uses its server certificate also as a client.
    #[must_use]
    pub fn node(id: &str) -> Self {
        Self {
            common_name: id.into(),
            dns_name: Some(id.into()),
            server: true,
            ..Self::default()
        }
    }

    /// A user of the cluster.
    #[must_use]
    pub fn user(identity: &str) -> Self {
        Self {
            common_name: identity.into(),
            client: true,
            ..Self::default()
        }
    }

    /// An etcd member, for peer connections.
    #[must_use]
    pub fn etcd_peer(id: &str) -> Self {
        Self {
            client: true,
            ..Self::node(id)
        }
    }
}

/// A certificate authority: its key and its certificate.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, PrivateKey>,
    certificate: Vec<u8>,
}

/// Why an authority cannot be loaded, or a certificate cannot be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The key is invalid.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate belongs to another key.
    #[error("the CA certificate does not match the CA key")]
    Mismatch,
    /// The certificate cannot be created.
    #[error("cannot create the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// X.509 cannot represent the time.
    #[error("the time is out of range for X.509")]
    Time,
}

impl Authority {
    /// Creates an authority with a self-signed certificate.
    ///
    /// # Errors
    /// If the certificate cannot be created.
    pub fn create(common_name: &str, key: PrivateKey, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut params = params(now)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::OcspSigning,
        ];
        let certificate = params.self_signed(&key)?.der().to_vec();
        Self::load(key, certificate)
    }

    /// Loads a stored authority.
    ///
    /// # Errors
    /// If the certificate does not match the key.
    pub fn load(key: PrivateKey, certificate: Vec<u8>) -> Result<Self, AuthorityError> {
        if public_key_of(&certificate).as_ref() != Some(key.public_key()) {
            return Err(AuthorityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(certificate.as_slice()), key)?;
        Ok(Self { issuer, certificate })
    }

    /// The CA certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The key of the authority.
    pub fn key(&self) -> &PrivateKey {
        self.issuer.key()
    }

    /// Issues a certificate for a public key, DER.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn issue(&self, subject: &Subject, public_key: &[u8; 32], now: SystemTime) -> Result<Vec<u8>, AuthorityError> {
        self.sign(subject, &Holder::Ed25519(*public_key), params(now)?)
    }

    /// Issues a certificate for a node's P-256 key, DER, valid from one hour ago until `until`, with the subject of
    /// the node's own certificate. It expires because instances renew it automatically, and it is backdated because
    /// standard clients allow no clock skew.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn issue_p256(
        &self,
        node_id: &str,
        public_key: &[u8; 65],
        now: SystemTime,
        until: SystemTime,
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = params(now.checked_sub(BACKDATED).unwrap_or(SystemTime::UNIX_EPOCH))?;
        params.not_after = at(until)?;
        self.sign(&Subject::node(node_id), &Holder::P256(*public_key), params)
    }

    /// Issues a proof of membership: a certificate for a node's own key, DER, valid from one hour ago until `until`,
    /// which also marks the node as a consensus member.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn issue_member(
        &self,
        node_id: &str,
        public_key: &[u8; 32],
        now: SystemTime,
        until: SystemTime,
    ) -> Result<Vec<u8>, AuthorityError> {
        let mut params = params(now.checked_sub(BACKDATED).unwrap_or(SystemTime::UNIX_EPOCH))?;
        params.not_after = at(until)?;
        // NULL: the presence of the extension is the mark.
        params.custom_extensions = vec![CustomExtension::from_oid_content(MEMBER, vec![0x05, 0])];
        self.sign(&Subject::node(node_id), &Holder::Ed25519(*public_key), params)
    }

    fn sign(
        &self,
        subject: &Subject,
        holder: &Holder,
        mut params: CertificateParams,
    ) -> Result<Vec<u8>, AuthorityError> {
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name.as_str());
        if let Some(organization) = &subject.organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization.as_str());
        }
        if let Some(name) = &subject.dns_name {
            params.subject_alt_names = CertificateParams::new(vec![name.clone()])?.subject_alt_names;
        }
        params.key_usages = match holder {
            Holder::Ed25519(_) => vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment],
            Holder::P256(_) => vec![KeyUsagePurpose::DigitalSignature],
        };
        params.extended_key_usages = [
            (subject.client, ExtendedKeyUsagePurpose::ClientAuth),
            (subject.server, ExtendedKeyUsagePurpose::ServerAuth),
        ]
        .into_iter()
        .filter_map(|(has, usage)| has.then_some(usage))
        .collect();
        params.use_authority_key_identifier_extension = true;
        // With `ExplicitNoCa`, rcgen would add a key identifier, which the Go Curator's certificates lack.
        params.is_ca = IsCa::NoCa;
        params.custom_extensions.insert(0, no_authority());
        Ok(params.signed_by(holder, &self.issuer)?.der().to_vec())
    }

    /// An empty certificate revocation list, DER. It has the CRL number that RFC 5280, section 5.2.3 requires and the
    /// Go Curator's list lacks.
    pub fn empty_crl(&self, now: SystemTime) -> Result<Vec<u8>, AuthorityError> {
        let crl = CertificateRevocationListParams {
            this_update: at(now)?,
            next_update: never()?,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(crl.signed_by(&self.issuer)?.der().to_vec())
    }
}

/// A self-signed certificate for a key: it proves possession of the key, and nothing else.
pub fn ephemeral(key: &PrivateKey, now: SystemTime) -> Result<Vec<u8>, AuthorityError> {
    let mut params = params(now)?;
    params.serial_number = Some(SerialNumber::from(1));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::NoCa;
    params.custom_extensions = vec![no_authority()];
    Ok(params.self_signed(key)?.der().to_vec())
}

/// The public key of a certificate.
enum Holder {
    Ed25519([u8; 32]),
    /// The uncompressed point.
    P256([u8; 65]),
}

impl PublicKeyData for Holder {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(key) => key,
            Self::P256(key) => key,
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::Ed25519(_) => &rcgen::PKCS_ED25519,
            Self::P256(_) => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

/// The parameters that all certificates share.
fn params(now: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = at(now)?;
    params.not_after = never()?;
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// Empty critical basic constraints: not a CA.
fn no_authority() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0]);
    extension.set_criticality(true);
    extension
}

/// A serial number of 127 random bits.
fn serial() -> Result<SerialNumber, AuthorityError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A time in whole seconds.
fn at(time: SystemTime) -> Result<OffsetDateTime, AuthorityError> {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|_| AuthorityError::Time)?
        .as_secs();
    let seconds = i64::try_from(seconds).map_err(|_| AuthorityError::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Time)
}

fn never() -> Result<OffsetDateTime, AuthorityError> {
    OffsetDateTime::from_unix_timestamp(NEVER).map_err(|_| AuthorityError::Time)
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::*;

    use super::*;
    use crate::{is_certificate, is_crl, node_id};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000)
    }

    fn authority() -> Authority {
        Authority::create("Metropolis Cluster CA", PrivateKey::generate().unwrap(), now()).unwrap()
    }

    fn parsed(der: &[u8]) -> X509Certificate<'_> {
        let (rest, certificate) = X509Certificate::from_der(der).unwrap();
        assert!(rest.is_empty());
        certificate
    }

    fn key_identifiers(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let mut found = (None, None);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => found.0 = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    found.1 = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        found
    }

    #[test]
    fn the_cluster_ca_is_as_the_contract_has_it() {
        let ca = authority();
        let certificate = parsed(ca.certificate());
        certificate.verify_signature(None).expect("signed by itself");
        assert_eq!(certificate.subject().to_string(), "CN=Metropolis Cluster CA");
        assert_eq!(certificate.issuer(), certificate.subject());
        assert_eq!(certificate.validity().not_before.timestamp(), 1_750_000_000);
        assert_eq!(certificate.validity().not_after.timestamp(), NEVER);
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca && constraints.value.path_len_constraint.is_none());
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(usage.value.digital_signature() && !usage.value.key_encipherment());
        let extended = certificate.extended_key_usage().unwrap().unwrap();
        assert!(!extended.critical && extended.value.client_auth && extended.value.server_auth);
        assert!(extended.value.ocsp_signing);
        let (own, authoritys) = key_identifiers(&certificate);
        assert!(own.is_some() && authoritys.is_none());
    }

    #[test]
    fn nodes_and_users_are_told_apart_by_what_their_certificates_are_for() {
        let ca = authority();
        let key = [7; 32];
        let id = node_id(&key).unwrap();
        let (ca_key, _) = key_identifiers(&parsed(ca.certificate()));
        for (subject, server, client) in [
            (Subject::node(&id), true, false),
            (Subject::user("owner"), false, true),
            (Subject::etcd_peer(&id), true, true),
        ] {
            let der = ca.issue(&subject, &key, now()).unwrap();
            let certificate = parsed(&der);
            certificate
                .verify_signature(Some(parsed(ca.certificate()).public_key()))
                .expect("signed by the authority");
            assert_eq!(certificate.subject().to_string(), format!("CN={}", subject.common_name));
            assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key);
            let constraints = certificate.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && !constraints.value.ca);
            let usage = certificate.key_usage().unwrap().unwrap();
            assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
            assert!(!usage.value.key_cert_sign());
            let extended = certificate.extended_key_usage().unwrap().unwrap();
            assert_eq!(
                (
                    extended.value.server_auth,
                    extended.value.client_auth,
                    extended.critical
                ),
                (server, client, false)
            );
            let names = certificate.subject_alternative_name().unwrap();
            let names: Vec<_> = names.iter().flat_map(|names| &names.value.general_names).collect();
            match &subject.dns_name {
                Some(name) => assert_eq!(names, [&GeneralName::DNSName(name)]),
                None => assert!(names.is_empty()),
            }
            let (own, authoritys) = key_identifiers(&certificate);
            assert_eq!((own, authoritys), (None, ca_key.clone()));
            assert_eq!(certificate.validity().not_after.timestamp(), NEVER);
        }
    }

    #[test]
    fn an_ephemeral_certificate_says_nothing_but_its_key() {
        let key = PrivateKey::generate().unwrap();
        let der = ephemeral(&key, now()).unwrap();
        let certificate = parsed(&der);
        certificate.verify_signature(None).expect("signed by itself");
        assert_eq!(certificate.subject().iter().count(), 0);
        assert_eq!(certificate.issuer().iter().count(), 0);
        assert_eq!(certificate.raw_serial(), [1]);
        assert_eq!(
            certificate.public_key().subject_public_key.data.as_ref(),
            key.public_key()
        );
        assert_eq!(certificate.validity().not_before.timestamp(), 1_750_000_000);
        assert_eq!(certificate.validity().not_after.timestamp(), NEVER);
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca);
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
        assert!(usage.value.key_cert_sign() && !usage.value.crl_sign());
        let extended = certificate.extended_key_usage().unwrap().unwrap();
        assert!(extended.value.client_auth && !extended.value.server_auth && !extended.critical);
        assert_eq!(certificate.subject_alternative_name().unwrap().map(drop), None);
        assert_eq!(key_identifiers(&certificate), (None, None));
    }

    #[test]
    fn an_authority_is_loaded_with_its_own_certificate_alone() {
        let (ca, other) = (authority(), authority());
        let key = || PrivateKey::from_bytes(&ca.key().to_bytes()[..]).unwrap();
        let again = Authority::load(key(), ca.certificate().to_vec()).unwrap();
        let der = again.issue(&Subject::user("owner"), &[7; 32], now()).unwrap();
        let certificate = parsed(&der);
        certificate
            .verify_signature(Some(parsed(ca.certificate()).public_key()))
            .expect("signed by the authority");
        for wrong in [other.certificate().to_vec(), Vec::new(), vec![0x30, 0]] {
            assert!(matches!(Authority::load(key(), wrong), Err(AuthorityError::Mismatch)));
        }
    }

    #[test]
    fn serial_numbers_are_random_and_positive() {
        let ca = authority();
        let issue = || ca.issue(&Subject::user("owner"), &[7; 32], now()).unwrap();
        let (one, two) = (issue(), issue());
        assert_ne!(parsed(&one).raw_serial(), parsed(&two).raw_serial());
        assert!(parsed(&one).raw_serial()[0] < 0x80);
    }

    #[test]
    fn a_list_of_nothing_revoked() {
        let ca = authority();
        let der = ca.empty_crl(now()).unwrap();
        assert!(is_crl(&der) && !is_certificate(&der));
        let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
        assert_eq!(crl.iter_revoked_certificates().count(), 0);
        crl.verify_signature(parsed(ca.certificate()).public_key())
            .expect("signed");
    }
}
