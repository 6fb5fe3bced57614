//! Node watches.

use std::collections::BTreeMap;
use std::time::Duration;

use curator_proto::curator_api::watch_event::Progress;
use curator_proto::curator_api::watch_request::{Kind, NodeInCluster, NodesInCluster};
use curator_proto::curator_api::{Node, WatchEvent, WatchRequest};
use futures::StreamExt;
use prost::Message;
use tonic::Code;

use crate::leader::nodes::watch::Events;
use crate::leader::tests::stage::{FIRST, Stage, id, owner, refused};

async fn all(stage: &Stage) -> Events {
    let kind = Some(Kind::NodesInCluster(NodesInCluster {}));
    stage.leader.watch(&owner(), WatchRequest { kind }).await.unwrap()
}

async fn one(stage: &Stage, id: &str) -> Events {
    let kind = Some(Kind::NodeInCluster(NodeInCluster { node_id: id.into() }));
    stage.leader.watch(&owner(), WatchRequest { kind }).await.unwrap()
}

async fn next(events: &mut Events) -> WatchEvent {
    let event = tokio::time::timeout(Duration::from_secs(30), events.next());
    let event = event.await.expect("something").expect("goes on").expect("no error");
    event.decoded().expect("it is one")
}

async fn quiet(events: &mut Events) {
    let event = tokio::time::timeout(Duration::from_secs(3), events.next()).await;
    assert!(event.is_err(), "{event:?}");
}

/// What a client knows after the events up to the marker, or after one more.
#[derive(Default)]
struct Client {
    nodes: BTreeMap<String, Node>,
    markers: usize,
}

impl Client {
    fn take(&mut self, event: WatchEvent) {
        self.markers += usize::from(event.progress() == Progress::LastBacklogged);
        for node in event.nodes {
            self.nodes.insert(node.id.clone(), node);
        }
        for gone in event.node_tombstones {
            assert!(
                self.nodes.remove(&gone.node_id).is_some(),
                "{} was never told of",
                gone.node_id
            );
        }
    }

    async fn backlog(&mut self, events: &mut Events) {
        while self.markers == 0 {
            self.take(next(events).await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_node_from_before_it_is_there_to_after_it_is_gone() {
    let stage = Stage::new().await;
    let mut events = one(&stage, &id(2)).await;
    quiet(&mut events).await;
    stage.register(2).await.unwrap();
    let event = next(&mut events).await;
    assert_eq!((event.nodes.len(), event.progress()), (1, Progress::Unspecified));
    assert_eq!(event.nodes[0].id, id(2));
    stage.report(2, "192.0.2.2").await.unwrap();
    let event = next(&mut events).await;
    assert_eq!(event.nodes[0].status.as_ref().unwrap().external_address, "192.0.2.2");
    // Changes of other nodes are not reported, nor is an unchanged record.
    stage.report(FIRST, "192.0.2.1").await.unwrap();
    stage.rewrite(&id(2), |_| {}).await;
    quiet(&mut events).await;
    stage.delete(&format!("/nodes/{}", id(2))).await;
    let event = next(&mut events).await;
    assert_eq!(event.node_tombstones[0].node_id, id(2));
    // The watch continues.
    stage.put(&format!("/nodes/{}", id(2)), old_record(2)).await;
    assert_eq!(
        next(&mut events).await.nodes[0].id,
        id(2),
        "without an id, as records were once"
    );
    for bad in ["", "a/b"] {
        let kind = Some(Kind::NodeInCluster(NodeInCluster { node_id: bad.into() }));
        assert_eq!(
            refused(stage.leader.watch(&owner(), WatchRequest { kind }).await.map(drop)),
            Code::InvalidArgument
        );
    }
    let unknown = stage
        .leader
        .watch(&owner(), WatchRequest { kind: None })
        .await
        .map(drop);
    assert_eq!(refused(unknown), Code::Unimplemented);
}

fn old_record(number: u8) -> Vec<u8> {
    let node = curator_proto::private::Node {
        public_key: crate::leader::tests::stage::key(number).to_vec(),
        ..Default::default()
    };
    node.encode_to_vec()
}

#[tokio::test(start_paused = true)]
async fn all_nodes_with_a_marker_after_those_that_were_there() {
    let stage = Stage::new().await;
    let mut events = all(&stage).await;
    let event = next(&mut events).await;
    assert_eq!((event.nodes.len(), event.progress()), (1, Progress::LastBacklogged));
    stage.report(FIRST, "192.0.2.1").await.unwrap();
    let event = next(&mut events).await;
    assert_eq!((event.nodes.len(), event.progress()), (1, Progress::Unspecified));
    stage.register(2).await.unwrap();
    assert_eq!(next(&mut events).await.nodes[0].id, id(2));
    let mut late = all(&stage).await;
    assert_eq!(next(&mut late).await.nodes.len(), 2);
    stage.delete(&format!("/nodes/{}", id(2))).await;
    for events in [&mut events, &mut late] {
        assert_eq!(next(events).await.node_tombstones[0].node_id, id(2));
        quiet(events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_has_a_marker_too() {
    let stage = Stage::new().await;
    let mut late = all(&stage).await;
    next(&mut late).await;
    stage.delete(&format!("/nodes/{}", id(FIRST))).await;
    next(&mut late).await;
    let event = next(&mut all(&stage).await).await;
    assert_eq!((event.nodes.len(), event.progress()), (0, Progress::LastBacklogged));
}

/// Many large records: the backlog arrives in parts, each node once, with one marker at the end.
#[tokio::test(start_paused = true)]
async fn a_large_backlog_comes_in_chunks() {
    let stage = Stage::new().await;
    let record = |number: u64| {
        let node = curator_proto::private::Node {
            id: format!("n{number:04}"),
            status: Some(curator_proto::common::NodeStatus {
                boot_id: vec![1; 4_000],
                ..Default::default()
            }),
            ..Default::default()
        };
        node.encode_to_vec()
    };
    let mut revision = curator_election::store::Revision(0);
    for number in 0..2_500 {
        revision = stage.put(&format!("/nodes/n{number:04}"), record(number)).await;
    }
    stage.followed("/nodes/n2499", revision).await;
    let mut events = all(&stage).await;
    let mut client = Client::default();
    let mut sizes = Vec::new();
    while client.markers == 0 {
        let event = next(&mut events).await;
        sizes.push(event.encoded_len());
        client.take(event);
    }
    assert_eq!(client.nodes.len(), 2_501);
    assert!(
        sizes.len() > 4 && sizes.iter().all(|size| *size < (64 << 10) + 8_192),
        "{sizes:?}"
    );
}

/// For any number of watchers, a record is encoded once, and again when it has changed.
#[tokio::test(start_paused = true)]
async fn watchers_share_one_encoding_of_a_record() {
    let stage = Stage::new().await;
    stage.up(2).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let event = all(&stage).await.next().await.unwrap().unwrap();
        told.push(event.nodes.iter().map(|node| node.as_ptr()).collect::<Vec<_>>());
    }
    assert_eq!(told[0].len(), 2);
    assert!(told.iter().all(|addresses| *addresses == told[0]), "{told:?}");
    let mut events = all(&stage).await;
    let before = next(&mut events).await.nodes.pop().unwrap();
    stage.report(2, "192.0.2.77").await.unwrap();
    let after = next(&mut events).await.nodes.pop().unwrap();
    assert_eq!((&after.id, before.id), (&id(2), id(2)));
    assert_eq!(after.status.unwrap().external_address, "192.0.2.77");
}

/// Changes during the backlog are sent after it; nothing is lost, and no deletion is reported twice.
#[tokio::test(start_paused = true)]
async fn a_slow_watcher_ends_up_with_what_there_is() {
    let stage = Stage::new().await;
    for number in 2..40 {
        stage.up(number).await;
    }
    let mut events = all(&stage).await;
    let mut client = Client::default();
    client.backlog(&mut events).await;
    assert_eq!(client.nodes.len(), 39);
    // The client does not read for a while.
    for round in 0..30_u8 {
        for number in 2..40 {
            stage.report(number, &format!("192.0.2.{round}")).await.unwrap();
        }
    }
    stage.delete(&format!("/nodes/{}", id(7))).await;
    stage.delete(&format!("/nodes/{}", id(8))).await;
    stage.up(50).await;
    let mut told = 0;
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(1), events.next()).await {
        client.take(event.unwrap().decoded().unwrap());
        told += 1;
    }
    assert!(
        told <= 45,
        "each node's newest state, not all that it went through: {told}"
    );
    assert_eq!(client.nodes.len(), 38);
    assert!(!client.nodes.contains_key(&id(7)) && client.nodes.contains_key(&id(50)));
    let status = client.nodes[&id(20)].status.as_ref().unwrap();
    assert_eq!(status.external_address, "192.0.2.29");
}

/// The leader's own watch breaks, and its missed events are compacted.
#[tokio::test(start_paused = true)]
async fn no_deletion_is_lost_across_compaction() {
    use curator_election::memory::{Faults, Link};
    let stage = Stage::new().await;
    stage.up(2).await;
    stage.up(3).await;
    let mut events = all(&stage).await;
    let mut client = Client::default();
    client.backlog(&mut events).await;
    let cut = Faults {
        link: Link::Cut,
        ..Faults::default()
    };
    stage.cluster.set_faults(1, cut);
    stage.delete(&format!("/nodes/{}", id(2))).await;
    let revision = stage.put(&format!("/nodes/{}", id(4)), old_record(4)).await;
    stage.delete(&format!("/nodes/{}", id(3))).await;
    stage.put(&format!("/nodes/{}", id(3)), old_record(3)).await;
    stage.cluster.with_model(|model, _| {
        let newest = model.revision();
        model.compact(newest).unwrap();
    });
    stage.cluster.close_watches(1);
    quiet(&mut events).await;
    stage.cluster.set_faults(1, Faults::default());
    stage.followed(&format!("/nodes/{}", id(4)), revision).await;
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(1), events.next()).await {
        client.take(event.unwrap().decoded().unwrap());
    }
    let ids: Vec<_> = client.nodes.keys().cloned().collect();
    assert_eq!(ids, [id(FIRST), id(3), id(4)]);
}

/// More invalid records than a watch reads at a time do not block the records after them.
#[tokio::test(start_paused = true)]
async fn watch_lives_on_while_the_term_is_suspended() {
    let stage = Stage::new().await;
    let mut events = all(&stage).await;
    Client::default().backlog(&mut events).await;
    stage.confirm(Duration::from_millis(1));
    tokio::time::advance(Duration::from_millis(1)).await;
    let node = format!("/nodes/{}", id(2));
    let revision = stage.put(&node, old_record(2)).await;
    stage.followed(&node, revision).await;
    assert_eq!(next(&mut events).await.nodes[0].id, id(2));
}

#[tokio::test(start_paused = true)]
async fn unusable_records_hold_up_no_watcher() {
    let stage = Stage::new().await;
    let mut events = all(&stage).await;
    let mut client = Client::default();
    client.backlog(&mut events).await;
    for number in 0..40 {
        stage.put(&format!("/nodes/a{number:02}"), &b"\xff\xff"[..]).await;
    }
    let good = format!("/nodes/{}", id(2));
    let revision = stage.put(&good, old_record(2)).await;
    stage.followed(&good, revision).await;
    assert_eq!(next(&mut events).await.nodes[0].id, id(2));
    // Nor do invalid records that exist when a watch starts.
    for number in 0..1_100 {
        stage.put(&format!("/nodes/b{number:04}"), &b"\xff\xff"[..]).await;
    }
    let last = stage.put("/nodes/b9999", &b"\xff\xff"[..]).await;
    stage.followed("/nodes/b9999", last).await;
    let mut client = Client::default();
    client.backlog(&mut all(&stage).await).await;
    let ids: Vec<_> = client.nodes.keys().cloned().collect();
    assert_eq!(ids, [id(FIRST), id(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_term() {
    let stage = Stage::new().await;
    let mut events = all(&stage).await;
    next(&mut events).await;
    stage.term_owner.end();
    let ended = events.next().await.expect("says why").unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(events.next().await.is_none());
}
