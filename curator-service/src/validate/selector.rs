//! Resolves which node a request selects.

use curator_identity::node_id;
use curator_proto::management_api::{
    decommission_node_request, delete_node_request, update_node_labels_request, update_node_roles_request,
};
use tonic::Status;

use super::key32;

/// The ID of the node with this key.
pub(crate) fn id_of_key(field: &str, public_key: &[u8]) -> Result<String, Status> {
    let key = key32(field, public_key)?;
    // Every 32-byte key has an ID.
    node_id(&key).ok_or_else(|| Status::invalid_argument(format!("{field}: invalid public key")))
}

/// How a management request selects a node.
pub(crate) enum Selector {
    PublicKey(Vec<u8>),
    Id(String),
}

impl Selector {
    /// The node ID. An explicit `id` is validated when the node is loaded.
    pub(crate) fn id(selector: Option<impl Into<Self>>) -> Result<String, Status> {
        match selector.map(Into::into) {
            Some(Self::PublicKey(key)) => id_of_key("pubkey", &key),
            Some(Self::Id(id)) => Ok(id),
            None => Err(Status::invalid_argument("node: pubkey or id is required")),
        }
    }
}

macro_rules! selects {
    ($($request:ident),*) => {$(
        impl From<$request::Node> for Selector {
            fn from(node: $request::Node) -> Self {
                match node {
                    $request::Node::Pubkey(key) => Self::PublicKey(key),
                    $request::Node::Id(id) => Self::Id(id),
                }
            }
        }
    )*};
}

selects!(
    delete_node_request,
    decommission_node_request,
    update_node_labels_request,
    update_node_roles_request
);
