//! Which certificate a client is shown: one that it can verify.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What a client asks for by this name wants a proof that the node is a member of the consensus. It is asked in the clear, as all names are.
pub(crate) const PROOF: &str = "consensus-member.curator.invalid";

/// The node's own certificate for whoever offers Ed25519, as all do that check who the node is by its key. For those who do not, the
/// second one, once there is one: their own rules say whether it is good enough. Those who ask for the proof of membership are shown that,
/// while there is one: it is for the same key.
#[derive(Debug)]
pub(super) struct ByOffer {
    pub(super) own: Arc<CertifiedKey>,
    pub(super) second: Option<Arc<CertifiedKey>>,
    pub(super) member: Option<Arc<CertifiedKey>>,
}

impl ByOffer {
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

impl ResolvesServerCert for ByOffer {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match &self.member {
            Some(member) if hello.server_name() == Some(PROOF) => Some(member.clone()),
            _ => Some(self.choose(hello.signature_schemes()).clone()),
        }
    }
}
