//! Certificates for tests and benchmarks, and mutual TLS 1.3 with them. The keys are Ed25519.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, Issuer, KeyPair, PKCS_ED25519};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name of servers.
pub const SERVER: &str = "the-leader";
/// The name of clients.
pub const CLIENT: &str = "a-client";

/// Errors of this module.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One side of a connection: a certificate, its key, and the trusted CA.
pub struct Party {
    ca: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// Creates a server and a client of a new CA.
///
/// # Errors
/// If no keys can be created.
pub fn parties() -> Result<(Party, Party), Failure> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL treats a certificate with the name of its issuer as self-signed.
    params.distinguished_name.push(DnType::CommonName, "an authority");
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let ca = CertificateDer::from(params.self_signed(&key)?.der().to_vec());
    let issuer = Issuer::new(params, key);
    let party = |name: &str| -> Result<Party, Failure> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let names = vec![name.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Party {
            ca: ca.clone(),
            certificate: CertificateDer::from(certificate.der().to_vec()),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    };
    Ok((party(SERVER)?, party(CLIENT)?))
}

/// Writes a server and a client of a new CA into a directory: `ca.pem`, and `NAME.pem` and `NAME-key.pem` for each.
///
/// # Errors
/// If the files cannot be written.
pub fn write(directory: &Path) -> Result<(), Failure> {
    let (server, client) = parties()?;
    fs::write(directory.join("ca.pem"), pem("CERTIFICATE", &server.ca))?;
    for (name, party) in [(SERVER, &server), (CLIENT, &client)] {
        fs::write(
            directory.join(format!("{name}.pem")),
            pem("CERTIFICATE", &party.certificate),
        )?;
        let key = pem("PRIVATE KEY", &first_version(party.key.secret_der())?);
        fs::write(directory.join(format!("{name}-key.pem")), key)?;
    }
    Ok(())
}

/// PKCS #8 version 1, without the public key: OpenSSL supports no other. Source: RFC 8410, section 7.
fn first_version(pkcs8: &[u8]) -> Result<Vec<u8>, Failure> {
    const HEAD: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    // Version 2 starts with the same bytes except for length and version.
    let seed = pkcs8.get(16..48).filter(|_| pkcs8[5..16] == HEAD[5..]);
    Ok([&HEAD, seed.ok_or("that is no Ed25519 key")?].concat())
}

fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

impl Party {
    /// Reads the side with this name from a directory.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn read(directory: &Path, name: &str) -> Result<Self, Failure> {
        let path = |file: String| directory.join(file);
        Ok(Self {
            ca: CertificateDer::from_pem_file(path("ca.pem".into()))?,
            certificate: CertificateDer::from_pem_file(path(format!("{name}.pem")))?,
            key: PrivateKeyDer::from_pem_file(path(format!("{name}-key.pem")))?,
        })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone())?;
        Ok(Arc::new(roots))
    }

    /// A server configuration that requests client certificates and also accepts clients without one. No session
    /// resumption.
    ///
    /// # Errors
    /// If the certificate cannot be used.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// A client configuration. No session resumption.
    ///
    /// # Errors
    /// If the certificate cannot be used.
    pub fn client(&self) -> Result<Arc<ClientConfig>, Failure> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots()?);
        let mut config = builder.with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// A client configuration without a certificate. No session resumption.
    ///
    /// # Errors
    /// If the CA cannot be used.
    pub fn stranger(&self) -> Result<Arc<ClientConfig>, Failure> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots()?);
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The server name for a handshake with [`SERVER`].
///
/// # Errors
/// Never.
pub fn server_name() -> io::Result<rustls::pki_types::ServerName<'static>> {
    SERVER.try_into().map_err(io::Error::other)
}
