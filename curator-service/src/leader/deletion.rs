//! The end of a node.

use curator_proto::common::NodeState;
use curator_proto::management_api::{DeleteNodeRequest, DeleteNodeResponse};
use curator_proto::storage::DeletedNode;
use prost::Message;
use tonic::Status;

use super::{Leader, load};
use crate::state::keys::{DECOMMISSIONS, DELETED_NODES, REGISTRATIONS};

impl Leader {
    /// Deletes a node's record. One that is up, or has roles, must be decommissioned first, unless the caller says otherwise.
    ///
    /// Of one that has ever been up it stays known that it was deleted: there is a certificate for its key, which must not be that of
    /// a node again.
    pub(super) async fn delete_node(&self, request: DeleteNodeRequest) -> Result<DeleteNodeResponse, Status> {
        let may_have_roles = request.safety_bypass_has_roles.is_some();
        let may_be_up = request.safety_bypass_not_decommissioned.is_some();
        let id = load::Selector::id(request.node)?;
        self.state
            .transact(|tx| {
                let node = load::node(tx, &id)?;
                if let Some(role) = node.any_role().filter(|_| !may_have_roles) {
                    return Err(Status::failed_precondition(format!(
                        "node {id} still has the role {}: decommission it first",
                        role.name()
                    )));
                }
                match node.state() {
                    NodeState::New | NodeState::Standby | NodeState::Decommissioned => {}
                    NodeState::Up if may_be_up => {}
                    NodeState::Up => {
                        return Err(Status::failed_precondition(format!(
                            "node {id} is not decommissioned: decommission it first"
                        )));
                    }
                    NodeState::Invalid => return Err(Status::internal(format!("node {id} has no valid state"))),
                }
                node.delete(tx).map_err(load::not_saved)?;
                if matches!(node.state(), NodeState::Up | NodeState::Decommissioned) {
                    let deleted = DeletedNode {
                        public_key: node.message().public_key.clone(),
                    };
                    let key = DELETED_NODES.key(&id).map_err(load::invalid_id)?;
                    tx.put(key, deleted.encode_to_vec());
                }
                for beside in [DECOMMISSIONS, REGISTRATIONS] {
                    let key = beside.key(&id).map_err(load::invalid_id)?;
                    if tx.get(key.clone()).is_some() {
                        tx.delete(key);
                    }
                }
                Ok(())
            })
            .await?;
        self.heartbeats.forget(&id);
        self.pace.forget(&id);
        Ok(DeleteNodeResponse {})
    }
}
