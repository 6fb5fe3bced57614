//! Status reports of nodes.

use std::net::IpAddr;

use curator_proto::common::NodeStatus;
use curator_proto::curator_api::{UpdateNodeStatusRequest, UpdateNodeStatusResponse};
use prost::Message;
use prost_types::Timestamp;
use tonic::Status;

use crate::leader::Leader;
use crate::leader::nodes::pace::Kind;
use crate::leader::nodes::{lookup, territory};
use crate::state::record::NodeRecord;
use crate::validate::Invalid;

/// Maximum length of free-form values of a node, such as a boot ID or a commit hash.
const MAX_TEXT_BYTES: usize = 1_024;

/// An unchanged status is written again after this many seconds, to refresh its timestamp.
const REPEAT_SECONDS: i64 = 60;

impl Leader {
    /// Updates the status of the calling node, within its write rate limit; an unchanged status needs no write.
    pub(in crate::leader) async fn report_node_status(
        &self,
        caller: &str,
        request: UpdateNodeStatusRequest,
    ) -> Result<UpdateNodeStatusResponse, Status> {
        self.state.ready().await?;
        let (known, bytes) = match (self.state.view().node(caller), &request.status) {
            (Some(Ok(node)), Some(status)) => {
                let stamped = NodeStatus {
                    timestamp: Some(Timestamp::from(self.now())),
                    ..status.clone()
                };
                (
                    says_nothing_new(node, &stamped),
                    node.stored_bytes() + status.encoded_len(),
                )
            }
            _ => (false, 0),
        };
        if !known {
            self.pace.turn(caller, Kind::Status, bytes).await?;
        }
        self.update_node_status(caller, request).await
    }

    /// Replaces the status of the calling node. The leader sets the timestamp.
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
                let mut node = lookup::node(tx, caller)?;
                if says_nothing_new(&node, &status) {
                    return Ok(UpdateNodeStatusResponse {});
                }
                if node.external_address() != status.external_address {
                    territory::check_address(tx.peek(), caller, &status.external_address)?;
                }
                node.message_mut().status = Some(status.clone());
                lookup::save(node, tx)?;
                Ok(UpdateNodeStatusResponse {})
            })
            .await
    }
}

/// Whether the status equals a recent report, so that no write is needed.
fn says_nothing_new(node: &NodeRecord, status: &NodeStatus) -> bool {
    let Some(known) = &node.message().status else {
        return false;
    };
    let seconds = |status: &NodeStatus| status.timestamp.as_ref().map(|time| time.seconds);
    let (Some(before), Some(now)) = (seconds(known), seconds(status)) else {
        return false;
    };
    let same = NodeStatus {
        timestamp: status.timestamp,
        ..known.clone()
    } == *status;
    same && (before..before.saturating_add(REPEAT_SECONDS)).contains(&now)
}

fn checked(status: Option<NodeStatus>) -> Result<NodeStatus, Invalid> {
    let status = status.ok_or_else(|| Invalid::new("status", "required"))?;
    if status.external_address.is_empty() {
        return Err(Invalid::new("status.external_address", "must not be empty"));
    }
    if status.external_address.parse::<IpAddr>().is_err() {
        return Err(Invalid::new("status.external_address", "must be an IP address"));
    }
    let port = status.running_curator.as_ref().map_or(0, |curator| curator.port);
    if u16::try_from(port).is_err() {
        return Err(Invalid::new("status.running_curator.port", "must be a port number"));
    }
    if status.boot_id.len() > MAX_TEXT_BYTES {
        return Err(Invalid::new("status.boot_id", "must be at most 1,024 bytes"));
    }
    let git = status
        .version
        .as_ref()
        .and_then(|version| version.git_information.as_ref());
    if git.is_some_and(|git| git.commit_hash.len() > MAX_TEXT_BYTES) {
        let field = "status.version.git_information.commit_hash";
        return Err(Invalid::new(field, "must be at most 1,024 bytes"));
    }
    Ok(status)
}
