//! Reads records from the state, and maps errors to gRPC codes.

use std::error::Error;
use std::sync::Arc;

use tonic::Status;
use tracing::warn;

use crate::complaint::Complaint;
use crate::state::keys::{CLUSTER_CONFIGURATION, InvalidId};
use crate::state::record::{ClusterRecord, Corrupt, NodeRecord, SaveError};
use crate::state::tx::Tx;

/// Returns the record of a node; an error if it does not exist.
pub(in crate::leader) fn node(tx: &mut Tx<'_>, id: &str) -> Result<NodeRecord, Status> {
    optional_node(tx, id)?.ok_or_else(|| no_node(id))
}

/// Returns the record of a node, if it exists.
pub(in crate::leader) fn optional_node(tx: &mut Tx<'_>, id: &str) -> Result<Option<NodeRecord>, Status> {
    match tx.node(id).map_err(invalid_id)? {
        Some(Ok(node)) => Ok(Some(NodeRecord::clone(node))),
        Some(Err(corrupt)) => Err(unusable(corrupt)),
        None => Ok(None),
    }
}

pub(in crate::leader) fn no_node(id: &str) -> Status {
    Status::not_found(format!("node {id} not found"))
}

pub(in crate::leader) fn invalid_id(error: InvalidId) -> Status {
    Status::invalid_argument(format!("node id: {error}"))
}

/// Returns the cluster configuration; an error if it does not exist.
pub(in crate::leader) fn cluster(tx: &mut Tx<'_>) -> Result<ClusterRecord, Status> {
    let stored = tx
        .get(CLUSTER_CONFIGURATION)
        .ok_or_else(|| Status::not_found("cluster is not bootstrapped: no configuration is stored"))?;
    ClusterRecord::decode(&stored.value).map_err(|corrupt| unusable(&corrupt))
}

/// A stored value is invalid. The key is for the operator; it contains no secrets.
pub(in crate::leader) fn unusable(corrupt: &Corrupt) -> Status {
    static COMPLAINT: Complaint = Complaint::new();
    COMPLAINT.say(|left_out| warn!(%corrupt, left_out, "stored value is invalid"));
    let mut status = Status::unavailable(corrupt.to_string());
    status.set_source(Arc::new(corrupt.clone()));
    status
}

/// Like `unusable`, without internal details, for unauthenticated callers.
pub(in crate::leader) fn to_stranger(status: Status) -> Status {
    if status.source().is_some_and(|source| source.is::<Corrupt>()) {
        Status::unavailable("a stored value is invalid; see the leader's log")
    } else {
        status
    }
}

pub(in crate::leader) fn save(node: NodeRecord, tx: &mut Tx<'_>) -> Result<(), Status> {
    node.save(tx).map_err(not_saved)
}

pub(in crate::leader) fn not_saved(error: SaveError) -> Status {
    match error {
        SaveError::JoinKeyTaken { .. } => Status::already_exists(error.to_string()),
        SaveError::Id(_) | SaveError::NoJoinKey { .. } => Status::invalid_argument(error.to_string()),
    }
}
