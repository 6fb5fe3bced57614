//! A node is decommissioned, even if the leader changes at each step.

use std::sync::atomic::Ordering;

use curator_proto::common::node_roles::{KubernetesController, KubernetesWorker};
use curator_proto::common::{NodeRoles, NodeState};
use curator_proto::management_api::{
    DecommissionNodeRequest, UpdateNodeRolesRequest, decommission_node_request, update_node_roles_request,
};
use tonic::{Code, Status};

use crate::consensus::Membership;
use crate::leader::tests::stage::{FIRST, Stage, consensus_member, id, refused};

/// Two members; the second one has every role.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.up(2).await;
    stage
        .members
        .add_learner(&format!("https://{}:7834", id(2)))
        .await
        .unwrap();
    let last = stage.members.members().await.unwrap().last().unwrap().id;
    stage.members.promote(last).await.unwrap();
    stage
        .rewrite(&id(FIRST), |node| {
            node.roles.as_mut().unwrap().consensus_member = Some(consensus_member());
        })
        .await;
    stage
        .rewrite(&id(2), |node| {
            node.roles = Some(NodeRoles {
                kubernetes_worker: Some(KubernetesWorker {}),
                kubernetes_controller: Some(KubernetesController {}),
                consensus_member: Some(consensus_member()),
            });
        })
        .await;
    stage
}

async fn decommission(stage: &Stage, number: u8) -> Result<(), Status> {
    let request = DecommissionNodeRequest {
        node: Some(decommission_node_request::Node::Id(id(number))),
    };
    stage.leader.decommission_node(request).await.map(drop)
}

/// The observed state of the node after each step: worker, controller, consensus member, membership, state.
async fn seen(stage: &Stage) -> (bool, bool, bool, bool, NodeState) {
    let record = stage.record(&id(2)).await;
    let roles = record.roles.clone().unwrap();
    let members = stage.members.members().await.unwrap();
    (
        roles.kubernetes_worker.is_some(),
        roles.kubernetes_controller.is_some(),
        roles.consensus_member.is_some(),
        members.iter().any(|member| member.node_id() == id(2)),
        record.fsm_state(),
    )
}

const LOCKS: [&str; 8] = [
    "/leader/2",
    "/leader/3",
    "/leader/4",
    "/leader/5",
    "/leader/6",
    "/leader/7",
    "/leader/8",
    "/leader/12",
];

/// Each step has a new leader. Roles are removed before the roles that they depend on.
#[tokio::test(start_paused = true)]
async fn each_step_may_be_another_leaders() {
    use NodeState::{Decommissioned, Up};
    // Without a crash in the middle of a step, and with one: the member is removed, but its role is not.
    for crash in [false, true] {
        let mut stage = stage().await;
        decommission(&stage, 2).await.unwrap();
        let mut locks = LOCKS.into_iter();
        for expected in [
            (true, true, true, true, Up),
            (false, true, true, true, Up),
            (false, false, true, true, Up),
            (false, false, false, false, Up),
            (false, false, false, false, Decommissioned),
        ] {
            stage = stage.succeed(locks.next().unwrap()).await.0;
            if crash && expected == (false, false, false, false, Up) {
                let members = stage.members.members().await.unwrap();
                let member = members.iter().find(|member| member.node_id() == id(2)).unwrap().id;
                stage.members.remove(member).await.unwrap();
                stage = stage.succeed(locks.next().unwrap()).await.0;
            }
            stage.leader.reconcile_once().await.unwrap();
            assert_eq!(seen(&stage).await, expected, "crash: {crash}");
        }
        assert_eq!(stage.value(&format!("/decommissions/{}", id(2))).await, None);
        let before = stage.all().await;
        stage.leader.reconcile_once().await.unwrap();
        assert_eq!(stage.all().await, before, "nothing is left to do");
    }
}

/// Of the last two members one stays, whether both are decommissioned sequentially or concurrently. Otherwise both
/// would wait forever.
#[tokio::test(start_paused = true)]
async fn not_all_members_can_go() {
    let after_another = stage().await;
    decommission(&after_another, 2).await.unwrap();
    assert_eq!(
        refused(decommission(&after_another, FIRST).await),
        Code::FailedPrecondition
    );
    // Repeating the call succeeds.
    decommission(&after_another, 2).await.unwrap();

    let at_once = stage().await;
    let (one, other) = tokio::join!(decommission(&at_once, 2), decommission(&at_once, FIRST));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}

/// A member that cannot be removed yet does not keep a learner from being promoted, which may be what the removal waits
/// for.
#[tokio::test(start_paused = true)]
async fn one_that_cannot_go_yet_holds_up_no_learner() {
    let stage = stage().await;
    stage.up(3).await;
    let role = UpdateNodeRolesRequest {
        node: Some(update_node_roles_request::Node::Id(id(3))),
        consensus_member: Some(true),
        ..UpdateNodeRolesRequest::default()
    };
    stage.leader.update_node_roles(role).await.unwrap();
    stage.members.named(&id(3));
    stage.watched.removable.store(false, Ordering::Relaxed);
    decommission(&stage, 2).await.unwrap();
    for _ in 0..3 {
        stage.leader.reconcile_once().await.unwrap();
    }
    stage.leader.reconcile_once().await.unwrap_err();
    let members = stage.members.members().await.unwrap();
    assert!(members.iter().all(|member| !member.learner), "{members:?}");
    // Once it can be removed, it is.
    stage.watched.removable.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        stage.leader.reconcile_once().await.unwrap();
    }
    assert_eq!(
        seen(&stage).await,
        (false, false, false, false, NodeState::Decommissioned)
    );
}

/// The leader's own node can be decommissioned too, although it is no longer a member then.
#[tokio::test(start_paused = true)]
async fn the_leaders_own_node_can_be_decommissioned() {
    let stage = stage().await;
    decommission(&stage, FIRST).await.unwrap();
    for _ in 0..4 {
        stage.leader.reconcile_once().await.unwrap();
        if stage.record(&id(FIRST)).await.fsm_state() == NodeState::Decommissioned {
            break;
        }
    }
    let record = stage.record(&id(FIRST)).await;
    assert_eq!(
        (record.fsm_state(), record.roles),
        (NodeState::Decommissioned, Some(NodeRoles::default()))
    );
    assert_eq!(stage.members.members().await.unwrap().len(), 1);
}
