//! Selects the server certificate that the client can verify.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The server name with which a client requests the proof of membership. Server names are sent unencrypted.
pub(crate) const PROOF: &str = "consensus-member.curator.invalid";

/// Selects a certificate: the node's own for clients that support Ed25519, which includes all clients that identify
/// the node by its key; the second one, if there is one, for other clients; and the proof of membership, if there is
/// one, for clients that request it. The proof is for the same key.
#[derive(Debug)]
pub(super) struct CertificateSelector {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) second: Option<Arc<CertifiedKey>>,
    pub(super) member: Option<Arc<CertifiedKey>>,
}

impl CertificateSelector {
    fn choose(&self, offered: &[SignatureScheme]) -> &Arc<CertifiedKey> {
        let offers = |scheme| offered.contains(&scheme);
        match &self.second {
            Some(second) if !offers(SignatureScheme::ED25519) && offers(SignatureScheme::ECDSA_NISTP256_SHA256) => {
                second
            }
            _ => &self.own,
        }
    }
}

impl ResolvesServerCert for CertificateSelector {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match &self.member {
            Some(member) if hello.server_name() == Some(PROOF) => Some(member.clone()),
            _ => Some(self.choose(hello.signature_schemes()).clone()),
        }
    }
}
