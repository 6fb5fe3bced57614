//! Nodes that were deleted or never committed, with a certificate that is still valid.

use curator_proto::admin_api::RotateRegisterTicketRequest;
use curator_proto::common::NodeState;
use curator_proto::curator_api::RegisterNodeRequest;
use curator_proto::management_api::DeleteNodeRequest;
use curator_proto::management_api::delete_node_request::{Node, SafetyBypassHasRoles, SafetyBypassNotDecommissioned};
use tonic::Code;

use crate::leader::tests::stage::{FIRST, Stage, id, join_key, key, refused};

async fn delete(stage: &Stage, number: u8) {
    let request = DeleteNodeRequest {
        node: Some(Node::Id(id(number))),
        safety_bypass_has_roles: Some(SafetyBypassHasRoles {}),
        safety_bypass_not_decommissioned: Some(SafetyBypassNotDecommissioned {}),
    };
    stage.leader.delete_node(request).await.unwrap();
}

/// What the node may do with its certificate.
async fn may(stage: &Stage, number: u8) -> Result<(), Code> {
    let checked = stage.leader.check_node(&id(number), &key(number)).await;
    checked.map_err(|status| status.code())
}

#[tokio::test(start_paused = true)]
async fn what_a_node_may_follows_its_state() {
    let stage = Stage::new().await;
    assert_eq!(may(&stage, 2).await, Err(Code::Unauthenticated), "unknown");
    stage.register(2).await.unwrap();
    assert_eq!(may(&stage, 2).await, Err(Code::PermissionDenied), "new");
    stage.approve(2).await.unwrap();
    assert_eq!(may(&stage, 2).await, Err(Code::PermissionDenied), "approved");
    stage.commit(2).await.unwrap();
    assert_eq!(may(&stage, 2).await, Ok(()), "up");
    assert_eq!(may(&stage, FIRST).await, Ok(()), "the first node is deleted as well");
    let other = stage.leader.check_node(&id(2), &key(3)).await;
    assert_eq!(refused(other), Code::Unauthenticated, "another key");
    for (state, code) in [
        (NodeState::Decommissioned, Code::PermissionDenied),
        (NodeState::Invalid, Code::PermissionDenied),
    ] {
        stage.rewrite(&id(2), |node| node.fsm_state = state.into()).await;
        assert_eq!(may(&stage, 2).await, Err(code), "{state:?}");
    }
    delete(&stage, FIRST).await;
    assert_eq!(may(&stage, FIRST).await, Err(Code::Unauthenticated), "deleted");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_deleted_does_not_come_back() {
    let stage = Stage::new().await;
    stage.up(2).await;
    delete(&stage, 2).await;
    let before = stage.all().await;
    let told = stage.register(2).await.unwrap_err();
    assert_eq!(told.code(), Code::FailedPrecondition);
    assert!(told.message().contains("with a new key"), "{told}");
    assert_eq!(stage.all().await, before);
    // Another key is another node, even on the same machine.
    let request = RegisterNodeRequest {
        register_ticket: stage.ticket().await,
        join_key: join_key(2).to_vec(),
        have_local_tpm: true,
        labels: None,
    };
    stage.leader.register_node(Some(key(3)), request).await.unwrap();
}

/// The original keeps no marker of a deleted node. Such a node may register, and has to be approved again.
#[tokio::test(start_paused = true)]
async fn a_node_that_the_original_has_deleted_has_to_be_approved_anew() {
    let stage = Stage::new().await;
    stage.up(2).await;
    delete(&stage, 2).await;
    stage.delete(&format!("/deleted_nodes/{}", id(2))).await;
    while stage.register(2).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(may(&stage, 2).await, Err(Code::PermissionDenied));
    stage.approve(2).await.unwrap();
    assert_eq!(may(&stage, 2).await, Err(Code::PermissionDenied));
    stage.commit(2).await.unwrap();
    assert_eq!(may(&stage, 2).await, Ok(()));
}

/// A node that has never been up has no certificate: it may register again.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_never_up_may_register_again() {
    let stage = Stage::new().await;
    let before = stage.all().await.len();
    stage.register(2).await.unwrap();
    delete(&stage, 2).await;
    stage.register(2).await.unwrap();
    stage.approve(2).await.unwrap();
    delete(&stage, 2).await;
    stage.register(2).await.unwrap();
    delete(&stage, 2).await;
    // The ticket is new.
    assert_eq!(stage.all().await.len(), before + 1, "no marker is left");
}

#[tokio::test(start_paused = true)]
async fn another_ticket_takes_the_place_of_the_one_before() {
    let stage = Stage::new().await;
    let known = stage.ticket().await;
    let rotate = || stage.leader.rotate_register_ticket(RotateRegisterTicketRequest {});
    let (one, two) = (rotate().await.unwrap().ticket, rotate().await.unwrap().ticket);
    assert!(one.len() == known.len() && one != known && one != two);
    assert_eq!(stage.ticket().await, two);
    let register = |register_ticket: Vec<u8>| {
        let request = RegisterNodeRequest {
            register_ticket,
            join_key: join_key(2).to_vec(),
            have_local_tpm: true,
            labels: None,
        };
        stage.leader.register_node(Some(key(2)), request)
    };
    assert_eq!(refused(register(known).await), Code::PermissionDenied);
    assert_eq!(refused(register(one).await), Code::PermissionDenied);
    register(two).await.unwrap();
}
