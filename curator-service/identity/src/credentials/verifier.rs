//! The checks in the TLS handshake: that the peer has the key of its certificate, and for clients that the server is
//! the expected one.
//!
//! Nodes present server certificates also as clients, so the standard rules for client certificates do not fit.
//! Signatures are verified by rustls.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Identity, is_member_certificate, verify};

/// Accepts any client, with or without a certificate: each call identifies its caller.
#[derive(Debug)]
pub(crate) struct AnyClient {
    provider: Arc<CryptoProvider>,
}

impl AnyClient {
    pub(crate) const fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

/// The error for a peer that does not support TLS 1.3.
fn too_old() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic)
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Part of the error for a node without a proof of membership.
pub const NO_PROOF: &str = "does not prove that it is a consensus member";

/// The server that a client expects.
#[derive(Clone, Debug)]
pub enum ExpectedServer {
    /// One node of the cluster with this CA.
    Node {
        /// The CA certificate.
        ca: CertificateDer<'static>,
        /// The node id.
        node_id: String,
    },
    /// One of these nodes of the cluster.
    OneOf {
        /// The CA certificate.
        ca: CertificateDer<'static>,
        /// The node ids.
        node_ids: Vec<String>,
    },
    /// Any node of the cluster that proves to be a consensus member.
    Instance {
        /// The CA certificate.
        ca: CertificateDer<'static>,
    },
    /// Any node of the cluster.
    AnyNode {
        /// The CA certificate.
        ca: CertificateDer<'static>,
    },
    /// Any server.
    Any,
}

/// Accepts only the expected server.
#[derive(Debug)]
pub struct NodeVerifier {
    expected: ExpectedServer,
    provider: Arc<CryptoProvider>,
}

impl NodeVerifier {
    /// Creates a verifier.
    #[must_use]
    pub const fn new(expected: ExpectedServer, provider: Arc<CryptoProvider>) -> Self {
        Self { expected, provider }
    }

    fn verify(&self, certificate: &[u8], more: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
        let (ca, expected) = match &self.expected {
            ExpectedServer::Node { ca, node_id } => (ca, Some(std::slice::from_ref(node_id))),
            ExpectedServer::OneOf { ca, node_ids } => (ca, Some(node_ids.as_slice())),
            ExpectedServer::AnyNode { ca } | ExpectedServer::Instance { ca } => (ca, None),
            ExpectedServer::Any => return Ok(()),
        };
        if more.iter().any(|more| more != ca) {
            return Err("it presented more than one certificate besides the CA certificate".into());
        }
        let proof = matches!(self.expected, ExpectedServer::Instance { .. });
        match verify(certificate, ca, now) {
            Ok(Identity::Node { id, .. }) if proof && !is_member_certificate(certificate) => {
                Err(format!("{id} is a node of the cluster but {NO_PROOF}"))
            }
            Ok(Identity::Node { id, .. }) if expected.is_none_or(|expected| expected.contains(&id)) => Ok(()),
            Ok(Identity::Node { id, .. }) => Err(format!("it is {id}")),
            Ok(Identity::User { .. }) => Err("it is a user".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.verify(certificate, more, now).map_err(|reason| {
            Error::General(match &self.expected {
                ExpectedServer::Node { node_id, .. } => format!("this is not node {node_id}: {reason}"),
                ExpectedServer::OneOf { .. } => format!("this is not one of the given members: {reason}"),
                ExpectedServer::Instance { .. } => format!("not an instance of the cluster: {reason}"),
                ExpectedServer::AnyNode { .. } | ExpectedServer::Any => format!("not a node of the cluster: {reason}"),
            })
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
