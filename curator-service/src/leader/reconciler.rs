//! The leader's background reconciler: it aligns roles with the consensus membership, completes work that an earlier
//! leader left unfinished, and decommissions nodes.
//!
//! It runs every five seconds and makes at most one change per run. [`next`], a pure function of the stored state,
//! decides what to change.

use std::collections::BTreeSet;
use std::time::Duration;

use curator_election::store::Revision;
use curator_proto::private::decommission::Phase;
use tonic::Status;
use tracing::{debug, info, warn};

use crate::consensus::Member;
use crate::leader::Leader;
use crate::leader::nodes::decommission::Step;
use crate::leader::nodes::{decommission, lookup};
use crate::state::StateError;
use crate::state::keys::{DECOMMISSIONS, NODES};
use crate::state::record::{NodeRecord, NodeRoleKind};
use crate::state::tx::Tx;

/// Interval between runs, and delay before the first.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(5);

/// The single change of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    /// Removes a member that belongs to no node.
    RemoveMember { member: u64, node: String },
    /// Gives the role to the node of a member.
    GiveRole { node: String },
    /// Takes the role, and the roles that depend on it, from a node that is not a member.
    TakeRole { node: String },
    /// Takes the next decommissioning step of a node.
    Decommission { node: String, step: Step },
    /// Promotes a learner to voting member.
    Promote { member: u64, node: String },
}

/// Why a run made no change although one may be needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Blocked {
    #[error("the leader's own node {0} is not a consensus member")]
    NoMember(String),
    #[error("the leader's own node {0} has no node record")]
    NoNode(String),
}

/// Decides the next change. The members were read before the nodes, so that a member whose node was added in between is
/// not mistaken for that of a deleted node.
fn next(
    own: &str,
    members: &[Member],
    nodes: &[&NodeRecord],
    decommissions: &[(String, Phase)],
) -> Result<Option<Task>, Blocked> {
    if nodes.is_empty() {
        // No cluster is bootstrapped yet.
        return Ok(None);
    }
    let is_member = |id: &str| members.iter().any(|member| member.node_id() == id);
    let known: BTreeSet<&str> = nodes.iter().map(|node| node.id()).collect();
    if !known.contains(own) {
        return Err(Blocked::NoNode(own.into()));
    }
    let step = |id: &str, phase: Phase| Task::Decommission {
        node: id.into(),
        step: decommission::next(phase, nodes.iter().find(|node| node.id() == id).copied()),
    };
    if !is_member(own) {
        // The own node may be missing because it is being decommissioned. The remaining steps concern only its record.
        let leaving = decommissions.iter().find(|(id, _)| id == own);
        let rest = leaving.map(|(id, phase)| Some(step(id, *phase)));
        return rest.ok_or_else(|| Blocked::NoMember(own.into()));
    }
    // A member that was added but not started has no name. It is left alone, since it may belong to any node.
    let mut named = members.iter().filter(|member| !member.is_unknown());
    let orphan_member = named.find(|member| !known.contains(&*member.node_id()));
    if let Some(member) = orphan_member {
        return Ok(Some(Task::RemoveMember {
            member: member.id,
            node: member.node_id(),
        }));
    }
    for node in nodes {
        let id = node.id();
        // During decommissioning the member is removed first and the role after it, in a separate step.
        let leaving = decommissions.iter().any(|(leaving, _)| leaving == id);
        match (is_member(id), node.roles().consensus_member.is_some()) {
            (true, false) if !leaving => return Ok(Some(Task::GiveRole { node: id.into() })),
            (false, true) => return Ok(Some(Task::TakeRole { node: id.into() })),
            _ => {}
        }
    }
    if let Some((id, phase)) = decommissions.first() {
        return Ok(Some(step(id, *phase)));
    }
    Ok(promotion(members))
}

/// Returns a learner that may be ready to vote. A learner without a name has not started and cannot have caught up.
fn promotion(members: &[Member]) -> Option<Task> {
    let learner = members.iter().find(|member| member.learner && !member.name.is_empty());
    learner.map(|member| Task::Promote {
        member: member.id,
        node: member.node_id(),
    })
}

/// Reconciles until the term ends.
pub(super) async fn run(leader: &Leader) {
    let reconciliation = async {
        // The same reason is logged once.
        let mut logged = None;
        loop {
            tokio::time::sleep(RECONCILE_INTERVAL).await;
            let reason = leader
                .reconcile_once()
                .await
                .err()
                .map(|status| status.message().to_owned());
            if let Some(reason) = reason.as_ref().filter(|_| reason != logged) {
                warn!(reason, "reconciliation is blocked");
            }
            logged = reason;
        }
    };
    tokio::select! {
        () = reconciliation => {}
        () = leader.state.fenced().term().ended() => {}
    }
}

impl Leader {
    /// Reads the state once and makes at most one change.
    pub(super) async fn reconcile_once(&self) -> Result<(), Status> {
        // Records written after this revision are not judged by the member list, which is read before them.
        let before = self.state.fenced().fence().await.map_err(StateError::from)?;
        let members = self.context.membership.members().await;
        let members = members.map_err(|error| Status::unavailable(format!("consensus membership: {error}")))?;
        let read = self.state.read(|view| {
            let nodes: Result<Vec<_>, _> = view.nodes().map(|(_, node)| node.clone()).collect();
            let decommissions: Vec<_> = view
                .under("/decommissions/")
                .filter_map(|(key, _)| DECOMMISSIONS.id(key).map(str::to_owned))
                .collect();
            (nodes, decommissions)
        });
        let (nodes, leaving) = read.await?;
        // An invalid record may belong to a member, so no safe decision is possible.
        let nodes = nodes.map_err(|corrupt| lookup::unusable(&corrupt))?;
        let nodes: Vec<&NodeRecord> = nodes.iter().map(|node| &**node).collect();
        let mut decommissions = Vec::new();
        for id in leaving {
            let phase = self.state.transact(|tx| decommission::phase(tx, &id)).await?;
            decommissions.extend(phase.map(|phase| (id, phase)));
        }
        let task = next(&self.context.node_id, &members, &nodes, &decommissions);
        let Some(task) = task.map_err(|blocked| Status::failed_precondition(blocked.to_string()))? else {
            return Ok(());
        };
        let leaving = matches!(task, Task::Decommission { .. });
        let done = self.carry_out(task, before).await;
        if let (Err(_), true, Some(promotion)) = (&done, leaving, promotion(&members)) {
            // A member may be removable only after a learner is promoted.
            self.carry_out(promotion, before).await?;
        }
        done
    }

    /// Returns the node's record if it has not changed since this revision.
    fn unchanged(tx: &mut Tx<'_>, id: &str, since: Revision) -> Result<Option<NodeRecord>, Status> {
        let key = NODES.key(id).map_err(lookup::invalid_id)?;
        match tx.get(key) {
            Some(entry) if entry.changed <= since => lookup::optional_node(tx, id),
            _ => Ok(None),
        }
    }

    async fn carry_out(&self, task: Task, before: Revision) -> Result<(), Status> {
        let membership = &self.context.membership;
        match task {
            Task::RemoveMember { member, node } => {
                self.check_term().await?;
                membership
                    .remove(member)
                    .await
                    .map_err(|error| Status::unavailable(error.to_string()))?;
                info!(node, "removed a consensus member that belongs to no node");
            }
            Task::Promote { member, node } => {
                self.check_term().await?;
                match membership.promote(member).await {
                    Ok(()) => info!(node, "promoted a consensus learner to voting member"),
                    Err(error) => debug!(node, %error, "a consensus learner cannot be promoted yet"),
                }
            }
            Task::GiveRole { node } => {
                let record = self.state.transact(|tx| Self::unchanged(tx, &node, before)).await?;
                let Some(record) = record else { return Ok(()) };
                // The member may have been removed in the meantime; it is not added again.
                let Some(join) = self.join_data(&record, false).await? else {
                    return Ok(());
                };
                self.state
                    .transact(|tx| match Self::unchanged(tx, &node, before)? {
                        Some(mut record) => {
                            record.roles_mut().consensus_member = Some(join.clone());
                            lookup::save(record, tx)?;
                            info!(node, "gave the consensus_member role to the node of a consensus member");
                            Ok(())
                        }
                        None => Ok(()),
                    })
                    .await?;
            }
            Task::TakeRole { node } => {
                self.state
                    .transact(|tx| match Self::unchanged(tx, &node, before)? {
                        Some(mut record) => {
                            record.roles_mut().kubernetes_controller = None;
                            record.roles_mut().consensus_member = None;
                            lookup::save(record, tx)?;
                            info!(
                                node,
                                "took the consensus_member role from a node that is not a consensus member"
                            );
                            Ok(())
                        }
                        None => Ok(()),
                    })
                    .await?;
            }
            Task::Decommission { node, step } => {
                if step == Step::Drop(NodeRoleKind::ConsensusMember) {
                    self.leave_consensus(&node).await?;
                }
                self.state
                    .transact(|tx| {
                        // The step is decided again from the current state.
                        let Some(phase) = decommission::phase(tx, &node)? else {
                            return Ok(());
                        };
                        let record = lookup::optional_node(tx, &node)?;
                        if decommission::next(phase, record.as_ref()) == step {
                            decommission::take(tx, &node, step)
                        } else {
                            Ok(())
                        }
                    })
                    .await?;
                info!(node, ?step, "decommissioning step done");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use curator_proto::common::node_roles::{ConsensusMember, KubernetesController, KubernetesWorker};
    use curator_proto::common::{NodeRoles, NodeState};
    use curator_proto::private;

    use super::*;

    fn node(id: &str, member: bool) -> NodeRecord {
        let roles = NodeRoles {
            consensus_member: member.then(ConsensusMember::default),
            ..NodeRoles::default()
        };
        let message = private::Node {
            roles: Some(roles),
            fsm_state: NodeState::Up.into(),
            ..private::Node::default()
        };
        NodeRecord::new(id.into(), message)
    }

    fn member(id: u64, name: &str) -> Member {
        Member {
            id,
            name: name.into(),
            peer_urls: vec![format!("https://{name}:7834")],
            learner: false,
        }
    }

    fn task(members: &[Member], nodes: &[NodeRecord], leaving: &[(String, Phase)]) -> Result<Option<Task>, Blocked> {
        next("a", members, &nodes.iter().collect::<Vec<_>>(), leaving)
    }

    #[test]
    fn nothing_is_changed_while_the_own_node_is_missing() {
        assert_eq!(
            task(&[member(2, "b")], &[node("a", true)], &[]),
            Err(Blocked::NoMember("a".into()))
        );
        assert_eq!(
            task(&[member(1, "a")], &[node("b", true)], &[]),
            Err(Blocked::NoNode("a".into()))
        );
    }

    /// The leader's own node may be the one that is being decommissioned.
    #[test]
    fn what_is_left_of_the_own_nodes_end_is_done_without_its_member() {
        for (role, step) in [(true, Step::Drop(NodeRoleKind::ConsensusMember)), (false, Step::Finish)] {
            let expected = Task::Decommission { node: "a".into(), step };
            let leaving = [("a".to_owned(), Phase::Decommissioning)];
            let nodes = [node("a", role), node("b", true)];
            assert_eq!(task(&[member(2, "b")], &nodes, &leaving), Ok(Some(expected)));
        }
    }

    #[test]
    fn without_a_cluster_there_is_nothing_to_do() {
        assert_eq!(task(&[member(1, "a"), member(2, "b")], &[], &[]), Ok(None));
    }

    #[test]
    fn strays_go_first_and_then_roles_follow_members() {
        let members = [member(1, "a"), member(3, "c")];
        let nodes = [node("a", true), node("b", true)];
        let orphan_member = Task::RemoveMember {
            member: 3,
            node: "c".into(),
        };
        assert_eq!(task(&members, &nodes, &[]), Ok(Some(orphan_member)));
        assert_eq!(
            task(&members[..1], &nodes, &[]),
            Ok(Some(Task::TakeRole { node: "b".into() }))
        );
        let nodes = [node("a", true), node("c", false)];
        assert_eq!(
            task(&members, &nodes, &[]),
            Ok(Some(Task::GiveRole { node: "c".into() }))
        );
        assert_eq!(task(&members, &[node("a", true), node("c", true)], &[]), Ok(None));
    }

    #[test]
    fn a_member_that_has_not_started_is_known_by_its_address() {
        let unnamed = Member {
            name: String::new(),
            learner: true,
            ..member(3, "c")
        };
        let members = [member(1, "a"), unnamed];
        assert_eq!(task(&members, &[node("a", true), node("c", true)], &[]), Ok(None));
    }

    /// An etcd member that an operator adds has no name until it is started.
    #[test]
    fn a_member_that_is_added_by_hand_is_left_alone_until_it_says_its_name() {
        let added = |name: &str| Member {
            name: name.into(),
            peer_urls: vec!["https://10.0.0.3:2380".into()],
            learner: true,
            ..member(3, "")
        };
        let nodes = [node("a", true), node("c", false)];
        assert_eq!(task(&[member(1, "a"), added("")], &nodes, &[]), Ok(None));
        let role = Task::GiveRole { node: "c".into() };
        assert_eq!(task(&[member(1, "a"), added("c")], &nodes, &[]), Ok(Some(role)));
        let orphan_member = Task::RemoveMember {
            member: 3,
            node: "x".into(),
        };
        assert_eq!(
            task(&[member(1, "a"), added("x")], &nodes, &[]),
            Ok(Some(orphan_member))
        );
    }

    #[test]
    fn learners_are_promoted_last() {
        let learner = Member {
            learner: true,
            ..member(3, "c")
        };
        let promote = Task::Promote {
            member: 3,
            node: "c".into(),
        };
        let members = [member(1, "a"), learner];
        assert_eq!(
            task(&members, &[node("a", true), node("c", true)], &[]),
            Ok(Some(promote))
        );
    }

    /// From the request to the end, one step at a time, across changes of leader.
    #[test]
    fn a_node_is_decommissioned_step_by_step() {
        let mut members = vec![member(1, "a"), member(3, "c")];
        let mut leaving = node("c", true);
        leaving.roles_mut().kubernetes_worker = Some(KubernetesWorker {});
        leaving.roles_mut().kubernetes_controller = Some(KubernetesController {});
        let mut phase = Phase::Requested;
        let mut steps = Vec::new();
        loop {
            let decommissions = [("c".to_owned(), phase)];
            let Ok(Some(Task::Decommission { node: _, step })) =
                task(&members, &[node("a", true), leaving.clone()], &decommissions)
            else {
                panic!("after {steps:?}")
            };
            steps.push(step);
            match step {
                Step::Begin => phase = Phase::Decommissioning,
                Step::Drop(NodeRoleKind::KubernetesWorker) => leaving.roles_mut().kubernetes_worker = None,
                Step::Drop(NodeRoleKind::KubernetesController) => leaving.roles_mut().kubernetes_controller = None,
                Step::Drop(NodeRoleKind::ConsensusMember) => {
                    members.pop();
                    leaving.roles_mut().consensus_member = None;
                }
                Step::Finish | Step::Abandon => break,
            }
        }
        assert_eq!(
            steps,
            [
                Step::Begin,
                Step::Drop(NodeRoleKind::KubernetesWorker),
                Step::Drop(NodeRoleKind::KubernetesController),
                Step::Drop(NodeRoleKind::ConsensusMember),
                Step::Finish
            ]
        );
    }

    /// After a crash between the removal of the member and that of its role, the role is removed next.
    #[test]
    fn a_crash_in_between_is_finished_by_the_next_pass() {
        let decommissions = [("c".to_owned(), Phase::Decommissioning)];
        let nodes = [node("a", true), node("c", true)];
        assert_eq!(
            task(&[member(1, "a")], &nodes, &decommissions),
            Ok(Some(Task::TakeRole { node: "c".into() }))
        );
    }

    #[test]
    fn what_is_not_up_any_more_is_not_decommissioned() {
        let decommissions = [("c".to_owned(), Phase::Decommissioning)];
        let abandon = Task::Decommission {
            node: "c".into(),
            step: Step::Abandon,
        };
        assert_eq!(
            task(&[member(1, "a")], &[node("a", true)], &decommissions),
            Ok(Some(abandon))
        );
    }
}
