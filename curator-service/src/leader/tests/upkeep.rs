//! The reconciler on a store: roles follow members, one change per run.

use std::time::Duration;

use curator_proto::common::NodeRoles;
use curator_proto::common::node_roles::KubernetesController;
use curator_proto::management_api::{UpdateNodeRolesRequest, update_node_roles_request};

use crate::consensus::Membership;
use crate::leader::tests::stage::{FIRST, Stage, consensus_member, id};

#[tokio::test(start_paused = true)]
async fn roles_follow_members() {
    let stage = Stage::new().await;
    let roles = async |number: u8| stage.record(&id(number)).await.roles.unwrap();
    let members = async || stage.members.members().await.unwrap().len();
    // The leader's own node is a member without the role.
    stage.leader.reconcile_once().await.unwrap();
    assert!(roles(FIRST).await.consensus_member.is_some());

    stage.up(2).await;
    stage
        .rewrite(&id(2), |node| {
            node.roles = Some(NodeRoles {
                consensus_member: Some(consensus_member()),
                kubernetes_controller: Some(KubernetesController {}),
                kubernetes_worker: None,
            });
        })
        .await;
    stage.members.add_learner("https://stray:7834").await.unwrap();
    stage.leader.reconcile_once().await.unwrap();
    assert_eq!(members().await, 1, "first the orphan member is removed");
    assert!(roles(2).await.consensus_member.is_some());
    stage.leader.reconcile_once().await.unwrap();
    assert_eq!(
        roles(2).await,
        NodeRoles::default(),
        "then both roles are removed together"
    );
    let before = stage.all().await;
    stage.leader.reconcile_once().await.unwrap();
    assert_eq!(stage.all().await, before);
}

/// The member was added, and the leader died before it wrote the role.
#[tokio::test(start_paused = true)]
async fn what_a_leader_left_half_done_is_finished_by_the_next() {
    let stage = Stage::new().await;
    stage.leader.reconcile_once().await.unwrap();
    stage.up(2).await;
    let url = format!("https://{}:7834", id(2));
    stage.members.add_learner(&url).await.unwrap();
    let (stage, _) = stage.succeed("/leader/2").await;
    stage.leader.reconcile_once().await.unwrap();
    let role = stage.record(&id(2)).await.roles.unwrap().consensus_member.unwrap();
    assert_eq!(role.peers.len(), 1);
    assert_eq!(stage.members.members().await.unwrap().len(), 2);
}

fn wish(number: u8, consensus: bool, controller: Option<bool>) -> UpdateNodeRolesRequest {
    UpdateNodeRolesRequest {
        node: Some(update_node_roles_request::Node::Id(id(number))),
        consensus_member: Some(consensus),
        kubernetes_controller: controller,
        ..UpdateNodeRolesRequest::default()
    }
}

/// The reconciler has read the members when a role is given: it does not take the role because of the older member
/// list.
#[tokio::test(start_paused = true)]
async fn a_role_that_has_just_been_given_is_not_taken() {
    let stage = Stage::new().await;
    stage.leader.reconcile_once().await.unwrap();
    stage.up(2).await;
    let leader = stage.leader.clone();
    stage.watched.interrupt(Box::pin(async move {
        leader.update_node_roles(wish(2, true, Some(true))).await.unwrap();
    }));
    stage.leader.reconcile_once().await.unwrap();
    let roles = stage.record(&id(2)).await.roles.unwrap();
    assert!(
        roles.consensus_member.is_some() && roles.kubernetes_controller.is_some(),
        "{roles:?}"
    );
}

/// A member that was just removed is not added again.
#[tokio::test(start_paused = true)]
async fn a_member_that_has_just_been_removed_stays_away() {
    let stage = Stage::new().await;
    stage.leader.reconcile_once().await.unwrap();
    stage.up(2).await;
    stage.leader.update_node_roles(wish(2, true, None)).await.unwrap();
    let leader = stage.leader.clone();
    stage.watched.interrupt(Box::pin(async move {
        leader.update_node_roles(wish(2, false, None)).await.unwrap();
    }));
    stage.leader.reconcile_once().await.unwrap();
    assert_eq!(stage.members.members().await.unwrap().len(), 1);
    assert_eq!(stage.record(&id(2)).await.roles.unwrap(), NodeRoles::default());
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_node_stops_the_pass() {
    let stage = Stage::new().await;
    let broken = format!("/nodes/{}", id(3));
    let revision = stage.put(&broken, &b"\xff\xff"[..]).await;
    stage.followed(&broken, revision).await;
    stage.members.add_learner("https://stray:7834").await.unwrap();
    stage.leader.reconcile_once().await.unwrap_err();
    assert_eq!(stage.members.members().await.unwrap().len(), 2);
}

/// A change of the members is no transaction: no guard would stop a leader that another one has replaced.
#[tokio::test(start_paused = true)]
async fn suspended_leader_changes_no_members_until_its_term_is_confirmed() {
    let stage = Stage::new().await;
    stage.confirm(Duration::from_millis(1));
    tokio::time::advance(Duration::from_millis(1)).await;
    let leader = stage.leader.clone();
    let mut leaving = tokio::spawn(async move { leader.leave_consensus(&id(FIRST)).await });
    let early = tokio::time::timeout(Duration::from_secs(60), &mut leaving).await;
    assert!(early.is_err(), "changed in a suspended term: {early:?}");
    assert_eq!(stage.members.members().await.unwrap().len(), 1);
    stage.confirm(Duration::from_secs(60));
    leaving.await.unwrap().unwrap();
    assert_eq!(stage.members.members().await.unwrap(), []);
}
