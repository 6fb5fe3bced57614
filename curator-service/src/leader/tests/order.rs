//! Of two errors in a request, the first in the contract's order is reported: codes are part of the contract.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curator_proto::common::node_cluster_networking::Prefix;
use curator_proto::common::{NodeClusterNetworking, NodeStatus, NodeStorageSecurity};
use curator_proto::curator_api::{
    CommitNodeRequest, IssueCertificateRequest, JoinNodeRequest, RegisterNodeRequest,
    UpdateNodeClusterNetworkingRequest, UpdateNodeStatusRequest, issue_certificate_request,
};
use curator_proto::management_api::update_node_labels_request::{Node, Pair};
use curator_proto::management_api::{UpdateNodeLabelsRequest, UpdateNodeRolesRequest, update_node_roles_request};
use tonic::Code;

use crate::leader::tests::stage::{FIRST, Stage, id, join_key, key, refused};

#[tokio::test(start_paused = true)]
async fn registering() {
    let stage = Stage::new().await;
    stage.up(2).await;
    let ticket = stage.ticket().await;
    let register = |node, ticket: &[u8], join: usize, tpm| {
        let request = RegisterNodeRequest {
            register_ticket: ticket.to_vec(),
            join_key: vec![77; join],
            have_local_tpm: tpm,
            labels: None,
        };
        stage.leader.register_node(node, request)
    };
    assert_eq!(refused(register(None, b"", 31, false).await), Code::Unauthenticated);
    assert_eq!(
        refused(register(Some(key(2)), b"", 31, false).await),
        Code::InvalidArgument
    );
    assert_eq!(
        refused(register(Some(key(2)), b"", 32, true).await),
        Code::PermissionDenied
    );
    assert_eq!(
        refused(register(Some(key(2)), &ticket, 32, false).await),
        Code::PermissionDenied
    );
    assert_eq!(
        refused(register(Some(key(2)), &ticket, 32, true).await),
        Code::FailedPrecondition
    );
}

#[tokio::test(start_paused = true)]
async fn committing() {
    let stage = Stage::new().await;
    stage.register(3).await.unwrap();
    stage.register(4).await.unwrap();
    stage.approve(4).await.unwrap();
    let good = i32::from(NodeStorageSecurity::AuthenticatedEncrypted);
    let weak = i32::from(NodeStorageSecurity::Insecure);
    // A key of 33 bytes is invalid in each case, and is checked last.
    for (node, security, code) in [
        (None, 99, Code::Unauthenticated),
        (Some(key(4)), 99, Code::InvalidArgument),
        (Some(key(9)), weak, Code::FailedPrecondition),
        (Some(key(9)), good, Code::NotFound),
        (Some(key(3)), good, Code::PermissionDenied),
        (Some(key(FIRST)), good, Code::FailedPrecondition),
        (Some(key(4)), good, Code::InvalidArgument),
    ] {
        let request = CommitNodeRequest {
            cluster_unlock_key: vec![1; 33],
            storage_security: security,
        };
        assert_eq!(
            refused(stage.leader.commit_node(node, request).await),
            code,
            "{node:?} {security}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn joining() {
    let stage = Stage::new().await;
    stage.register(3).await.unwrap();
    let join = |sealed| {
        let request = JoinNodeRequest {
            using_sealed_configuration: sealed,
        };
        stage.leader.join_node(Some(join_key(3)), request)
    };
    assert_eq!(refused(join(false).await), Code::PermissionDenied);
    assert_eq!(refused(join(true).await), Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn reporting() {
    let stage = Stage::new().await;
    let report = |caller: String, of, status| {
        let request = UpdateNodeStatusRequest { node_id: of, status };
        let leader = stage.leader.clone();
        async move { leader.update_node_status(&caller, request).await }
    };
    let bad = Some(NodeStatus::default());
    assert_eq!(refused(report(id(9), id(8), None).await), Code::PermissionDenied);
    assert_eq!(refused(report(id(9), id(9), bad).await), Code::InvalidArgument);
    assert_eq!(refused(stage.report(9, "192.0.2.1").await), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn networking() {
    let stage = Stage::new().await;
    stage.up(2).await;
    stage.report(2, "192.0.2.2").await.unwrap();
    let update = |number: u8, key: &[u8], prefixes: Vec<&str>| {
        let clusternet = NodeClusterNetworking {
            wireguard_pubkey: STANDARD.encode(key),
            prefixes: prefixes.iter().map(|cidr| Prefix { cidr: (*cidr).into() }).collect(),
        };
        let request = UpdateNodeClusterNetworkingRequest {
            clusternet: Some(clusternet),
        };
        let leader = stage.leader.clone();
        async move { leader.update_node_cluster_networking(&id(number), request).await }
    };
    update(2, &[5; 32], Vec::new()).await.unwrap();
    // The first node has no status.
    for (number, key, prefixes, code) in [
        (9, &[5; 31][..], vec!["x"], Code::InvalidArgument),
        (9, &[5; 32], vec!["x"], Code::InvalidArgument),
        (9, &[6; 32], vec!["x"; 1_025], Code::NotFound),
        (FIRST, &[6; 32], vec!["x"], Code::FailedPrecondition),
        (FIRST, &[6; 32], vec!["10.192.0.0/24"; 1_025], Code::FailedPrecondition),
        (2, &[5; 32], vec!["x"; 1_025], Code::InvalidArgument),
    ] {
        assert_eq!(refused(update(number, key, prefixes).await), code, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn issuing() {
    let stage = Stage::new().await;
    let issue = |number: u8, kind| {
        let leader = stage.leader.clone();
        async move {
            leader
                .issue_certificate(&id(number), IssueCertificateRequest { kind })
                .await
        }
    };
    let bad = issue_certificate_request::Kind::KubernetesWorker(Default::default());
    assert_eq!(refused(issue(9, None).await), Code::Unavailable);
    assert_eq!(refused(issue(FIRST, None).await), Code::InvalidArgument);
    assert_eq!(refused(issue(FIRST, Some(bad)).await), Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn managing() {
    let stage = Stage::new().await;
    let labels = |number: u8, count: usize, key: &str| UpdateNodeLabelsRequest {
        node: Some(Node::Id(id(number))),
        upsert: (0..count)
            .map(|number| Pair {
                key: format!("{key}{number}"),
                value: String::new(),
            })
            .collect(),
        delete: Vec::new(),
    };
    let update = |request| stage.leader.update_node_labels(request);
    assert_eq!(refused(update(labels(9, 200, "-")).await), Code::InvalidArgument);
    assert_eq!(refused(update(labels(9, 200, "a")).await), Code::NotFound);
    assert_eq!(refused(update(labels(FIRST, 200, "a")).await), Code::OutOfRange);
    let roles = |node| UpdateNodeRolesRequest {
        node,
        kubernetes_controller: Some(true),
        ..UpdateNodeRolesRequest::default()
    };
    let nobody = update_node_roles_request::Node::Id(id(9));
    let update = |request| stage.leader.update_node_roles(request);
    assert_eq!(refused(update(roles(None)).await), Code::InvalidArgument);
    assert_eq!(refused(update(roles(Some(nobody))).await), Code::NotFound);
}
