//! What TLS itself checks: that the other side has the key that it shows, and on the way to an instance that it is the one.
//!
//! Nodes show certificates that are for servers where they are clients, so the stock rules for clients do not fit; signatures
//! are checked by rustls' own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Identity, says_member, verify};

/// Takes any client, with a certificate or without: who it is, each call asks for itself.
#[derive(Debug)]
pub(crate) struct AnyClient {
    provider: Arc<CryptoProvider>,
}

impl AnyClient {
    pub(crate) const fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

/// There is TLS 1.3 and nothing older.
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

/// What is said of a node that is taken for no instance for want of a proof.
pub const NO_PROOF: &str = "does not prove that it is a member of the consensus";

/// Whom a client wants to reach.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// One node of the cluster whose authority has this certificate.
    Node {
        /// The authority's certificate.
        ca: CertificateDer<'static>,
        /// The node.
        node_id: String,
    },
    /// One of these nodes of it.
    OneOf {
        /// The authority's certificate.
        ca: CertificateDer<'static>,
        /// The nodes.
        node_ids: Vec<String>,
    },
    /// Any node of that cluster that proves to be a member of the consensus.
    Instance {
        /// The authority's certificate.
        ca: CertificateDer<'static>,
    },
    /// Any node of that cluster.
    AnyNode {
        /// The authority's certificate.
        ca: CertificateDer<'static>,
    },
    /// Whoever answers.
    Anybody,
}

/// Takes the wanted node, and nobody else.
#[derive(Debug)]
pub struct NodeVerifier {
    wanted: Wanted,
    provider: Arc<CryptoProvider>,
}

impl NodeVerifier {
    /// A verifier for a client that wants this.
    #[must_use]
    pub const fn new(wanted: Wanted, provider: Arc<CryptoProvider>) -> Self {
        Self { wanted, provider }
    }

    fn verify(&self, certificate: &[u8], more: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
        let (ca, wanted) = match &self.wanted {
            Wanted::Node { ca, node_id } => (ca, Some(std::slice::from_ref(node_id))),
            Wanted::OneOf { ca, node_ids } => (ca, Some(node_ids.as_slice())),
            Wanted::AnyNode { ca } | Wanted::Instance { ca } => (ca, None),
            Wanted::Anybody => return Ok(()),
        };
        if more.iter().any(|more| more != ca) {
            return Err("it shows more than one certificate, beside the cluster's own authority".into());
        }
        let proof = matches!(self.wanted, Wanted::Instance { .. });
        match verify(certificate, ca, now) {
            Ok(Identity::Node { id, .. }) if proof && !says_member(certificate) => {
                Err(format!("{id} is a node of the cluster and {NO_PROOF}"))
            }
            Ok(Identity::Node { id, .. }) if wanted.is_none_or(|wanted| wanted.contains(&id)) => Ok(()),
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
            Error::General(match &self.wanted {
                Wanted::Node { node_id, .. } => format!("this is not node {node_id}: {reason}"),
                Wanted::OneOf { .. } => format!("this is none of the members that are named: {reason}"),
                Wanted::Instance { .. } => format!("this is no instance of the cluster: {reason}"),
                Wanted::AnyNode { .. } | Wanted::Anybody => format!("this is no node of the cluster: {reason}"),
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
