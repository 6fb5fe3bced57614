//! Limits on what one node can cost others: writes, pending approvals, and resources of other nodes.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curator_proto::common::node_cluster_networking::Prefix;
use curator_proto::common::node_labels::Pair;
use curator_proto::common::{NodeClusterNetworking, NodeLabels, NodeRoles, NodeState, NodeStatus};
use curator_proto::curator_api::{RegisterNodeRequest, UpdateNodeClusterNetworkingRequest, UpdateNodeStatusRequest};
use curator_proto::private;
use prost::Message;
use tonic::{Code, Status};

use crate::leader::nodes::newcomers;
use crate::leader::tests::stage::{FIRST, Stage, consensus_member, id, refused};

async fn report(stage: &Stage, number: u8, boot: &str) -> Result<(), Status> {
    let request = UpdateNodeStatusRequest {
        node_id: id(number),
        status: Some(NodeStatus {
            external_address: format!("203.0.113.{number}"),
            boot_id: boot.into(),
            ..NodeStatus::default()
        }),
    };
    stage.leader.report_node_status(&id(number), request).await.map(drop)
}

async fn network(stage: &Stage, number: u8, prefixes: &[&str]) -> Result<(), Status> {
    let request = UpdateNodeClusterNetworkingRequest {
        clusternet: Some(NodeClusterNetworking {
            wireguard_pubkey: STANDARD.encode([number; 32]),
            prefixes: prefixes.iter().map(|cidr| Prefix { cidr: (*cidr).into() }).collect(),
        }),
    };
    let leader = &stage.leader;
    leader
        .change_node_cluster_networking(&id(number), request)
        .await
        .map(drop)
}

async fn revision(stage: &Stage, number: u8) -> i64 {
    let record = stage
        .all()
        .await
        .into_iter()
        .find(|kv| kv.key == format!("/nodes/{}", id(number)));
    record.expect("it is there").mod_revision.0
}

#[tokio::test(start_paused = true)]
async fn what_has_not_changed_is_not_written() {
    let stage = Stage::new().await;
    stage.up(2).await;
    report(&stage, 2, "a").await.unwrap();
    network(&stage, 2, &["10.192.1.0/24"]).await.unwrap();
    let before = revision(&stage, 2).await;
    for _ in 0..100 {
        report(&stage, 2, "a").await.unwrap();
        network(&stage, 2, &["10.192.1.0/24"]).await.unwrap();
    }
    assert_eq!(revision(&stage, 2).await, before);
    report(&stage, 2, "b").await.unwrap();
    assert!(revision(&stage, 2).await > before);
    // After a while it is written again, to refresh the timestamp.
    let then = private::Node::decode(stage.value(&format!("/nodes/{}", id(2))).await.unwrap()).unwrap();
    let time = then.status.unwrap().timestamp.unwrap();
    stage
        .rewrite(&id(2), |node| {
            let status = node.status.as_mut().unwrap();
            status.timestamp = Some(prost_types::Timestamp {
                seconds: time.seconds - 60,
                ..time
            });
        })
        .await;
    let before = revision(&stage, 2).await;
    report(&stage, 2, "b").await.unwrap();
    assert!(revision(&stage, 2).await > before);
}

/// A node that changes as fast as it can, with a status of maximum size, beside well-behaved nodes.
#[tokio::test(start_paused = true)]
async fn one_node_does_not_fill_the_store() {
    let stage = Stage::new().await;
    stage.up(2).await;
    stage.up(3).await;
    let large = |number: u64| format!("{number:01024}");
    let (mut written, mut number) = (0, 0);
    let hostile = async {
        let until = tokio::time::Instant::now() + Duration::from_secs(60);
        while tokio::time::Instant::now() < until {
            number += 1;
            assert!(number < 5_000, "the loop must end");
            report(&stage, 2, &large(number)).await.unwrap();
            written += stage.value(&format!("/nodes/{}", id(2))).await.unwrap().len();
        }
    };
    let honest = async {
        for number in 0..10 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let boot = large(number);
            let reported = report(&stage, 3, &boot);
            tokio::time::timeout(Duration::from_secs(1), reported)
                .await
                .expect("at once")
                .unwrap();
        }
    };
    tokio::join!(hostile, honest);
    assert!(number > 50, "{number}");
    assert!(written < (256 + 4 * 61) << 10, "{written} bytes in a minute");
}

fn newcomer(number: u32, ticket: &[u8], labels: Option<NodeLabels>) -> ([u8; 32], RegisterNodeRequest) {
    let mut key = [77; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    let mut join = [78; 32];
    join[..4].copy_from_slice(&number.to_be_bytes());
    let request = RegisterNodeRequest {
        register_ticket: ticket.to_vec(),
        join_key: join.to_vec(),
        have_local_tpm: true,
        labels,
    };
    (key, request)
}

#[tokio::test(start_paused = true)]
async fn so_many_nodes_wait_for_approval_and_no_more() {
    let stage = Stage::new().await;
    let ticket = stage.ticket().await;
    // Concurrent registrations: each takes a moment to be written, so they do not see each other.
    let slow = curator_election::memory::Faults {
        delay: Duration::from_millis(1),
        ..Default::default()
    };
    stage.cluster.set_faults(1, slow);
    let registered = (0..newcomers::MAX_NEW_NODES as u32 + 200).map(|number| {
        let (key, request) = newcomer(number, &ticket, None);
        stage.leader.register_node(Some(key), request)
    });
    let registered = futures::future::join_all(registered).await;
    let done = registered.iter().filter(|done| done.is_ok()).count();
    assert_eq!(done, newcomers::MAX_NEW_NODES);
    let told = registered
        .iter()
        .find_map(|done| done.as_ref().err())
        .expect("too many");
    assert_eq!(told.code(), Code::ResourceExhausted);
    assert!(told.message().contains("waiting for approval"), "{told}");
    // A known node gets the same response again, and an approved one makes room.
    let (known, again) = newcomer(0, &ticket, None);
    stage.leader.register_node(Some(known), again).await.unwrap();
    let approve = curator_proto::management_api::ApproveNodeRequest { pubkey: known.to_vec() };
    stage.leader.approve_node(approve).await.unwrap();
    stage.register(3).await.unwrap();
    assert_eq!(refused(stage.register(4).await), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn what_nodes_that_wait_have_is_bounded_as_well() {
    let stage = Stage::new().await;
    let ticket = stage.ticket().await;
    let pairs = (0..128).map(|number| Pair {
        key: format!(
            "{}.{}.{}.x{number:03}/{}",
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(63)
        ),
        value: "v".repeat(63),
    });
    let labels = NodeLabels { pairs: pairs.collect() };
    let mut number = 0;
    let told = loop {
        let (key, request) = newcomer(number, &ticket, Some(labels.clone()));
        match stage.leader.register_node(Some(key), request).await {
            Ok(_) => number += 1,
            Err(told) => break told,
        }
    };
    assert_eq!(told.code(), Code::ResourceExhausted);
    let stored: usize = stage.all().await.iter().map(|kv| kv.value.len()).sum();
    assert!((150..300).contains(&number), "{number} nodes");
    assert!(stored < newcomers::MAX_NEW_BYTES + (64 << 10), "{stored} bytes");
}

#[tokio::test(start_paused = true)]
async fn what_is_another_nodes_is_not_given_away() {
    let stage = Stage::new().await;
    for number in [2, 3, 4] {
        stage.up(number).await;
        report(&stage, number, "").await.unwrap();
    }
    network(&stage, 2, &["10.192.1.0/24", "10.193.0.0/16", "203.0.113.2/32"])
        .await
        .unwrap();
    for taken in [
        "10.192.1.0/24",
        "10.192.1.7/32",
        "10.192.0.0/16",
        "10.192.0.0/11",
        "10.193.255.0/24",
        "10.193.0.0/16",
    ] {
        assert_eq!(
            refused(network(&stage, 3, &["10.200.0.0/24", taken]).await),
            Code::InvalidArgument,
            "{taken}"
        );
    }
    network(&stage, 3, &["10.192.2.0/24", "10.194.0.0/16", "203.0.113.3/32"])
        .await
        .unwrap();
    // A node's own prefixes may overlap and change.
    network(&stage, 2, &["10.192.1.0/25", "10.192.1.0/24", "10.193.1.0/24"])
        .await
        .unwrap();
    network(&stage, 4, &["10.193.2.0/24"]).await.unwrap();
    // Of two concurrent overlapping requests, one succeeds.
    let (one, two) = tokio::join!(
        network(&stage, 3, &["10.210.0.0/16"]),
        network(&stage, 4, &["10.210.7.0/24"])
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");

    // No other node may report the address of a consensus member.
    stage
        .rewrite(&id(FIRST), |node| {
            node.roles = Some(NodeRoles {
                consensus_member: Some(consensus_member()),
                ..NodeRoles::default()
            });
            node.fsm_state = NodeState::Up.into();
        })
        .await;
    stage.report(FIRST, "203.0.113.99").await.unwrap();
    assert_eq!(refused(stage.report(2, "203.0.113.99").await), Code::InvalidArgument);
    stage.report(FIRST, "127.0.0.1").await.unwrap();
    stage.report(2, "127.0.0.1").await.unwrap();
    // A node may use an external address that no other node reports.
    stage.report(3, "203.0.113.4").await.unwrap();
    assert_eq!(
        refused(network(&stage, 3, &["203.0.113.4/32"]).await),
        Code::InvalidArgument
    );
}
