//! Stored registration details, and certificates of callers that only have a key.

use curator_identity::public_key_of;
use curator_proto::admin_api::{GetRegistrationsRequest, IssueOwnRequest};
use curator_proto::curator_api::RegisterNodeRequest;
use curator_proto::management_api::DeleteNodeRequest;
use curator_proto::management_api::delete_node_request::Node;
use tonic::Code;

use crate::leader::tests::stage::{FIRST, OWNER, Stage, id, join_key, key, refused, wall};

async fn register(stage: &Stage, number: u8, from: Option<&str>) {
    let request = RegisterNodeRequest {
        register_ticket: stage.ticket().await,
        join_key: join_key(number).to_vec(),
        have_local_tpm: true,
        labels: None,
    };
    let from = from.map(|address| address.parse().unwrap());
    stage
        .leader
        .register_node_from(from, Some(key(number)), request)
        .await
        .unwrap();
}

async fn registrations(stage: &Stage, node_id: &str) -> Vec<(String, Vec<u8>, String)> {
    let node_id = node_id.to_owned();
    let found = stage
        .leader
        .get_registrations(GetRegistrationsRequest { node_id })
        .await;
    let found = found.unwrap().registrations.into_iter();
    found
        .map(|registration| {
            assert_eq!(registration.registered_at, Some(wall().into()));
            (
                registration.node_id,
                registration.public_key,
                registration.registered_from,
            )
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn it_is_known_where_from_and_when_a_node_has_registered() {
    let stage = Stage::new().await;
    assert_eq!(registrations(&stage, "").await, []);
    register(&stage, 2, Some("192.0.2.7")).await;
    register(&stage, 3, None).await;
    let of = |number: u8, from: &str| (id(number), key(number).to_vec(), from.to_owned());
    assert_eq!(registrations(&stage, "").await, [of(2, "192.0.2.7"), of(3, "")]);
    // The first registration counts: the holder of the node's key cannot change the recorded origin later.
    register(&stage, 2, Some("192.0.2.9")).await;
    assert_eq!(registrations(&stage, &id(2)).await, [of(2, "192.0.2.7")]);
    stage.approve(2).await.unwrap();
    assert_eq!(
        registrations(&stage, "").await,
        [of(3, "")],
        "nodes that wait for approval"
    );
    assert_eq!(registrations(&stage, &id(2)).await, [of(2, "192.0.2.7")]);
    assert_eq!(registrations(&stage, &id(FIRST)).await, [], "no registration is stored");
    let request = DeleteNodeRequest {
        node: Some(Node::Id(id(2))),
        ..DeleteNodeRequest::default()
    };
    stage.leader.delete_node(request).await.unwrap();
    assert_eq!(stage.value(&format!("/registrations/{}", id(2))).await, None);
}

/// A commit whose response was lost cannot be repeated, but the certificate that it issued can be fetched.
#[tokio::test(start_paused = true)]
async fn who_has_the_key_of_a_certificate_gets_it_again_and_anew() {
    let stage = Stage::new().await;
    let own = |key, anew| stage.leader.issue_own(Some(key), IssueOwnRequest { anew });
    stage.register(2).await.unwrap();
    assert_eq!(refused(own(key(2), false).await), Code::PermissionDenied, "it is NEW");
    stage.approve(2).await.unwrap();
    assert_eq!(
        refused(own(key(2), true).await),
        Code::PermissionDenied,
        "it has not committed"
    );
    let committed = stage.commit(2).await.unwrap();
    let again = own(key(2), false).await.unwrap();
    assert_eq!(again.certificate, committed.node_certificate);
    assert_eq!(again.ca_certificate, committed.ca_certificate);
    let newer = own(key(2), true).await.unwrap();
    assert_ne!(newer.certificate, committed.node_certificate);
    assert_eq!(public_key_of(&newer.certificate), Some(key(2)));
    assert_eq!(
        own(key(2), false).await.unwrap(),
        newer,
        "it has taken the other's place"
    );
    let owner = stage.leader.owner_certificate(&OWNER).await.unwrap();
    assert_eq!(own(OWNER, false).await.unwrap().certificate, owner);
    assert_ne!(own(OWNER, true).await.unwrap().certificate, owner);
    assert_eq!(refused(own([9; 32], true).await), Code::PermissionDenied);
    // As long as its ID, but another key.
    let mut other = key(2);
    other[31] = 0;
    assert_eq!(refused(own(other, false).await), Code::PermissionDenied);
    let nobody = stage.leader.issue_own(None, IssueOwnRequest { anew: false }).await;
    assert_eq!(refused(nobody), Code::Unauthenticated);
}
