//! What a node reports of itself.

use std::net::IpAddr;

use curator_proto::common::NodeStatus;
use curator_proto::curator_api::{UpdateNodeStatusRequest, UpdateNodeStatusResponse};
use prost_types::Timestamp;
use tonic::Status;

use super::{Leader, load};
use crate::validate::Invalid;

/// The longest that what a node may say freely can be: a boot id, a commit's hash.
const LONGEST: usize = 1_024;

impl Leader {
    /// Replaces the status of the calling node. Its timestamp is the leader's.
    pub(crate) async fn update_node_status(
        &self,
        caller: &str,
        request: UpdateNodeStatusRequest,
    ) -> Result<UpdateNodeStatusResponse, Status> {
        if caller != request.node_id {
            return Err(Status::permission_denied(
                "node_id: a node may only update its own status",
            ));
        }
        let mut status = checked(request.status)?;
        status.timestamp = Some(Timestamp::from(self.now()));
        self.state
            .transact(|tx| {
                let mut node = load::node(tx, caller)?;
                node.message_mut().status = Some(status.clone());
                load::save(node, tx)?;
                Ok(UpdateNodeStatusResponse {})
            })
            .await
    }
}

fn checked(status: Option<NodeStatus>) -> Result<NodeStatus, Invalid> {
    let status = status.ok_or_else(|| Invalid::new("status", "it is missing"))?;
    if status.external_address.is_empty() {
        return Err(Invalid::new("status.external_address", "it is empty"));
    }
    if status.external_address.parse::<IpAddr>().is_err() {
        return Err(Invalid::new("status.external_address", "it is no IP address"));
    }
    let port = status.running_curator.as_ref().map_or(0, |curator| curator.port);
    if u16::try_from(port).is_err() {
        return Err(Invalid::new("status.running_curator.port", "it is no port"));
    }
    if status.boot_id.len() > LONGEST {
        return Err(Invalid::new("status.boot_id", "it is longer than 1,024 bytes"));
    }
    let git = status
        .version
        .as_ref()
        .and_then(|version| version.git_information.as_ref());
    if git.is_some_and(|git| git.commit_hash.len() > LONGEST) {
        let field = "status.version.git_information.commit_hash";
        return Err(Invalid::new(field, "it is longer than 1,024 bytes"));
    }
    Ok(status)
}
