//! Deletion of nodes.

use curator_proto::admin_api::StepDownRequest;
use curator_proto::common::NodeState;
use curator_proto::management_api::{DeleteNodeRequest, DeleteNodeResponse};
use curator_proto::storage::DeletedNode;
use prost::Message;
use tonic::Status;

use crate::leader::Leader;
use crate::leader::nodes::lookup;
use crate::state::keys::{DECOMMISSIONS, DELETED_NODES, REGISTRATIONS};

impl Leader {
    /// Deletes a node's record. A node that is up or has roles must be decommissioned first, unless the request
    /// bypasses that check.
    ///
    /// A marker remains for a node that has ever been up: a certificate exists for its key, so the key must never
    /// belong to a node again.
    pub(in crate::leader) async fn delete_node(
        &self,
        request: DeleteNodeRequest,
    ) -> Result<DeleteNodeResponse, Status> {
        let may_have_roles = request.safety_bypass_has_roles.is_some();
        let may_be_up = request.safety_bypass_not_decommissioned.is_some();
        let id = crate::validate::Selector::id(request.node)?;
        self.leave_first(&id).await?;
        self.state
            .transact(|tx| {
                let node = lookup::node(tx, &id)?;
                if let Some(role) = node.any_role().filter(|_| !may_have_roles) {
                    return Err(Status::failed_precondition(format!(
                        "node {id} still has the role {}; decommission it first",
                        role.name()
                    )));
                }
                match node.state() {
                    NodeState::New | NodeState::Standby | NodeState::Decommissioned => {}
                    NodeState::Up if may_be_up => {}
                    NodeState::Up => {
                        return Err(Status::failed_precondition(format!(
                            "node {id} is not decommissioned; decommission it first"
                        )));
                    }
                    NodeState::Invalid => {
                        return Err(Status::internal(format!("the stored state of node {id} is invalid")));
                    }
                }
                node.delete(tx).map_err(lookup::not_saved)?;
                if matches!(node.state(), NodeState::Up | NodeState::Decommissioned) {
                    let deleted = DeletedNode {
                        public_key: node.message().public_key.clone(),
                    };
                    let key = DELETED_NODES.key(&id).map_err(lookup::invalid_id)?;
                    tx.put(key, deleted.encode_to_vec());
                }
                for beside in [DECOMMISSIONS, REGISTRATIONS] {
                    let key = beside.key(&id).map_err(lookup::invalid_id)?;
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

    /// Before the leader's own node is deleted, leadership is transferred: no instance serves for a node that does not
    /// exist.
    async fn leave_first(&self, id: &str) -> Result<(), Status> {
        let Some(succession) = self.context.succession.as_ref().filter(|_| id == self.context.node_id) else {
            return Ok(());
        };
        let term = self.state.fenced().term();
        // Fails if there is no other candidate. The next leader validates the request itself.
        let next = succession.step_down(term, StepDownRequest::default()).await?;
        Err(Status::unavailable(format!(
            "node {id} runs the leader, which is handing over to {}; retry",
            next.next_node_id
        )))
    }
}
