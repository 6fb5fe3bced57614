//! The end of a node.

use curator_proto::common::NodeState;
use curator_proto::management_api::{DeleteNodeRequest, DeleteNodeResponse};
use tonic::Status;

use super::{Leader, load};
use crate::state::keys::DECOMMISSIONS;

impl Leader {
    /// Deletes a node's record. One that is up, or has roles, must be decommissioned first, unless the caller says otherwise.
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
                let decommission = DECOMMISSIONS.key(&id).map_err(load::invalid_id)?;
                if tx.get(decommission.clone()).is_some() {
                    tx.delete(decommission);
                }
                Ok(())
            })
            .await?;
        self.heartbeats.forget(&id);
        Ok(DeleteNodeResponse {})
    }
}
