//! Authenticates callers by their certificates, and provides the client certificate for connections to the leader.

use std::sync::Arc;

use curator_identity::{CredentialsWatch, Identity, recognized, self_signed_key};
use curator_listener::{CallerCertificates, ToLeader};
use http::request::Parts;
use rustls::ClientConfig;

use crate::auth::{Authenticator, Member};

impl Authenticator for CredentialsWatch {
    fn authenticate(&self, request: &Parts) -> Result<Member, String> {
        let shown = request
            .extensions
            .get::<CallerCertificates>()
            .cloned()
            .unwrap_or_default();
        match recognized(&shown.0, self.newest().ca(), self.now()) {
            Ok(Identity::Node { id, public_key }) => Ok(Member::Node {
                id,
                public_key: Some(public_key),
            }),
            Ok(Identity::User { name }) => Ok(Member::User { identity: name }),
            Err(error) => Err(error.to_string()),
        }
    }

    fn self_signed_key(&self, request: &Parts) -> Option<[u8; 32]> {
        match &*request.extensions.get::<CallerCertificates>()?.0 {
            [certificate] => self_signed_key(certificate),
            _ => None,
        }
    }
}

/// Connects to leaders with the certificate of this instance.
#[derive(Clone)]
pub(crate) struct OwnCertificate(pub(crate) CredentialsWatch);

impl ToLeader for OwnCertificate {
    fn config(&self, node_id: &str) -> Result<Arc<ClientConfig>, rustls::Error> {
        self.0.newest().client(node_id).map(Arc::new)
    }
}
