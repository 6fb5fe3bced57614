//! Records out of the state, with the codes of what may be wrong.

use std::error::Error;
use std::sync::Arc;

use curator_proto::management_api::{
    decommission_node_request, delete_node_request, update_node_labels_request, update_node_roles_request,
};
use tonic::Status;
use tracing::warn;

use crate::complaint::Complaint;
use crate::state::keys::{CLUSTER_CONFIGURATION, InvalidId};
use crate::state::record::{ClusterRecord, Corrupt, NodeRecord, SaveError};
use crate::state::tx::Tx;
use crate::validate::key32;
use curator_identity::node_id;

/// The record of a node that must be there.
pub(super) fn node(tx: &mut Tx<'_>, id: &str) -> Result<NodeRecord, Status> {
    optional_node(tx, id)?.ok_or_else(|| no_node(id))
}

/// The record of a node, if it is there.
pub(super) fn optional_node(tx: &mut Tx<'_>, id: &str) -> Result<Option<NodeRecord>, Status> {
    match tx.node(id).map_err(invalid_id)? {
        Some(Ok(node)) => Ok(Some(NodeRecord::clone(node))),
        Some(Err(corrupt)) => Err(unusable(corrupt)),
        None => Ok(None),
    }
}

pub(super) fn no_node(id: &str) -> Status {
    Status::not_found(format!("there is no node {id}"))
}

pub(super) fn invalid_id(error: InvalidId) -> Status {
    Status::invalid_argument(format!("node id: {error}"))
}

/// The cluster's configuration, which must be there.
pub(super) fn cluster(tx: &mut Tx<'_>) -> Result<ClusterRecord, Status> {
    let stored = tx
        .get(CLUSTER_CONFIGURATION)
        .ok_or_else(|| Status::not_found("the cluster has no configuration: it is not bootstrapped"))?;
    ClusterRecord::decode(&stored.value).map_err(|corrupt| unusable(&corrupt))
}

/// What is stored cannot be used. The key is for whoever mends it; there are no secrets in it.
pub(super) fn unusable(corrupt: &Corrupt) -> Status {
    static COMPLAINT: Complaint = Complaint::new();
    COMPLAINT.say(|left_out| warn!(%corrupt, left_out, "a stored value cannot be used"));
    let mut status = Status::unavailable(corrupt.to_string());
    status.set_source(Arc::new(corrupt.clone()));
    status
}

/// The same to somebody whom the cluster does not know: nothing of the inside.
pub(super) fn to_stranger(status: Status) -> Status {
    match status.source().is_some_and(|source| source.is::<Corrupt>()) {
        true => Status::unavailable("a stored value cannot be used: the leader's log says which"),
        false => status,
    }
}

pub(super) fn save(node: NodeRecord, tx: &mut Tx<'_>) -> Result<(), Status> {
    node.save(tx).map_err(not_saved)
}

pub(super) fn not_saved(error: SaveError) -> Status {
    match error {
        SaveError::JoinKeyTaken { .. } => Status::already_exists(error.to_string()),
        SaveError::Id(_) | SaveError::NoJoinKey { .. } => Status::invalid_argument(error.to_string()),
    }
}

/// The id of the node with this key.
pub(super) fn id_of_key(field: &str, public_key: &[u8]) -> Result<String, Status> {
    let key = key32(field, public_key)?;
    // Of 32 bytes there always is one.
    node_id(&key).ok_or_else(|| Status::invalid_argument(format!("{field}: it is no key")))
}

/// Which node a manager means.
pub(super) enum Selector {
    PublicKey(Vec<u8>),
    Id(String),
}

impl Selector {
    /// The id. An `id` is looked at when the node is loaded.
    pub(super) fn id(selector: Option<impl Into<Self>>) -> Result<String, Status> {
        match selector.map(Into::into) {
            Some(Self::PublicKey(key)) => id_of_key("pubkey", &key),
            Some(Self::Id(id)) => Ok(id),
            None => Err(Status::invalid_argument("node: give its pubkey or its id")),
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
