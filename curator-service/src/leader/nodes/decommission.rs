//! Decommissioning of nodes.
//!
//! ```text
//! UP --DecommissionNode--> requested --first step--> decommissioning --no roles left--> DECOMMISSIONED
//! ```
//!
//! The two intermediate phases are stored at `/decommissions/<id>`, while the record keeps state UP. So the stored
//! state values keep their meaning, and the original, which does not know this key, sees a node in state UP that loses
//! roles. The step to DECOMMISSIONED and the removal of the key are one transaction.
//!
//! Each step is one transaction of the leader's reconciler; [`next`] decides it from the stored state. A crash leaves
//! at most one step undone, and the next leader takes it.

use curator_proto::common::NodeState;
use curator_proto::management_api::{DecommissionNodeRequest, DecommissionNodeResponse};
use curator_proto::private::Decommission;
use curator_proto::private::decommission::Phase;
use prost::Message;
use tonic::Status;

use crate::leader::Leader;
use crate::leader::nodes::lookup;
use crate::state::keys::DECOMMISSIONS;
use crate::state::record::{NodeRecord, NodeRoleKind};
use crate::state::tx::Tx;
use crate::state::view::Node;

/// The next step of decommissioning a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::leader) enum Step {
    /// Starts decommissioning.
    Begin,
    /// Removes this role. For the consensus role, the etcd member is removed first.
    Drop(NodeRoleKind),
    /// Completes decommissioning: no roles are left.
    Finish,
    /// Cancels: the node was changed by other means and is not being decommissioned.
    Abandon,
}

/// Decides the next step. Roles are removed before the roles that they depend on: workers first, consensus last.
pub(in crate::leader) fn next(phase: Phase, node: Option<&NodeRecord>) -> Step {
    let Some(node) = node.filter(|node| node.state() == NodeState::Up) else {
        return Step::Abandon;
    };
    let roles = node.roles();
    match phase {
        Phase::Invalid | Phase::Requested => Step::Begin,
        Phase::Decommissioning if roles.kubernetes_worker.is_some() => Step::Drop(NodeRoleKind::KubernetesWorker),
        Phase::Decommissioning if roles.kubernetes_controller.is_some() => {
            Step::Drop(NodeRoleKind::KubernetesController)
        }
        Phase::Decommissioning if roles.consensus_member.is_some() => Step::Drop(NodeRoleKind::ConsensusMember),
        Phase::Decommissioning => Step::Finish,
    }
}

impl Leader {
    /// Starts to decommission a node. Repeating the call, or calling it for a decommissioned node, changes nothing.
    pub(in crate::leader) async fn decommission_node(
        &self,
        request: DecommissionNodeRequest,
    ) -> Result<DecommissionNodeResponse, Status> {
        let id = crate::validate::Selector::id(request.node)?;
        self.state
            .transact(|tx| {
                let node = lookup::node(tx, &id)?;
                match node.state() {
                    NodeState::Decommissioned => return Ok(DecommissionNodeResponse {}),
                    NodeState::Up => {}
                    NodeState::New | NodeState::Standby => {
                        return Err(Status::failed_precondition(format!(
                            "node {id} has never been in NODE_STATE_UP; delete it instead"
                        )));
                    }
                    NodeState::Invalid => {
                        return Err(Status::internal(format!("the stored state of node {id} is invalid")));
                    }
                }
                let key = DECOMMISSIONS.key(&id).map_err(lookup::invalid_id)?;
                if tx.get(key.clone()).is_some() {
                    return Ok(DecommissionNodeResponse {});
                }
                if node.roles().consensus_member.is_some() && !another_member_stays(tx, &id)? {
                    return Err(Status::failed_precondition(format!(
                        "node {id} is the last consensus member; give another node the consensus_member role first"
                    )));
                }
                tx.put(key, encoded(Phase::Requested));
                Ok(DecommissionNodeResponse {})
            })
            .await
    }
}

/// Whether another node is a consensus member and stays one. The decision is part of the transaction: of the last two
/// members, decommissioned concurrently, one stays. Otherwise both would wait forever, since the consensus does not
/// remove its last member.
fn another_member_stays(tx: &mut Tx<'_>, id: &str) -> Result<bool, Status> {
    let is_member = |node: &Node| -> bool { node.as_ref().is_ok_and(|node| node.roles().consensus_member.is_some()) };
    let others = tx
        .peek()
        .nodes()
        .filter(|(other, node)| ***other != *id && is_member(node));
    for other in others.map(|(other, _)| other.clone()) {
        if phase(tx, &other)?.is_none() && tx.node(&other).map_err(lookup::invalid_id)?.is_some_and(is_member) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The decommissioning phase of a node; `None` if it is not being decommissioned.
pub(in crate::leader) fn phase(tx: &mut Tx<'_>, id: &str) -> Result<Option<Phase>, Status> {
    let key = DECOMMISSIONS.key(id).map_err(lookup::invalid_id)?;
    // A value that cannot be decoded means that decommissioning was requested.
    Ok(tx
        .get(key)
        .map(|stored| Decommission::decode(stored.value.as_ref()).map_or(Phase::Requested, |stored| stored.phase())))
}

/// Takes a step that changes only stored records.
pub(in crate::leader) fn take(tx: &mut Tx<'_>, id: &str, step: Step) -> Result<(), Status> {
    let key = DECOMMISSIONS.key(id).map_err(lookup::invalid_id)?;
    match step {
        Step::Abandon => tx.delete(key),
        Step::Begin => tx.put(key, encoded(Phase::Decommissioning)),
        Step::Drop(role) => {
            let mut node = lookup::node(tx, id)?;
            let roles = node.roles_mut();
            match role {
                NodeRoleKind::KubernetesWorker => roles.kubernetes_worker = None,
                NodeRoleKind::KubernetesController => roles.kubernetes_controller = None,
                NodeRoleKind::ConsensusMember => roles.consensus_member = None,
            }
            lookup::save(node, tx)?;
        }
        Step::Finish => {
            let mut node = lookup::node(tx, id)?;
            node.message_mut().fsm_state = NodeState::Decommissioned.into();
            lookup::save(node, tx)?;
            tx.delete(key);
        }
    }
    Ok(())
}

fn encoded(phase: Phase) -> Vec<u8> {
    Decommission { phase: phase.into() }.encode_to_vec()
}
