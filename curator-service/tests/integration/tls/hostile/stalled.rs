//! What those cost the leader who ask for much and take none of it, on a state of 14 MB.

use std::time::Duration;

use curator_harness::wait_until;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{RegisterNodeRequest, WatchRequest};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{ApproveNodeRequest, GetNodesRequest};
use curator_service::PrivateKey;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::attacks::{CURATOR, MANAGEMENT, labels, without_end};
use super::raw;
use crate::test_cluster::{SOON, resident};
use crate::tls::cluster::{Node, TlsCluster, Who, bounded};

/// Nodes with all the labels there may be.
const NODES: usize = 340;
/// Lists of all nodes, and watches of all nodes, that are open and not read.
const LISTS: usize = 60;
const WATCHES: usize = 100;
/// As much more memory either may cost, in KiB.
const MOST: u64 = 64 << 10;

/// Fills the state.
fn fill(cast: &TlsCluster, leader: usize) {
    let owner = cast.channel(Who::Owner, cast.address(leader));
    let mut registering = JoinSet::new();
    for number in 0..NODES {
        let key = PrivateKey::generate().unwrap();
        let unknown = cast.channel(Who::Key(&key), cast.address(leader));
        let (owner, register_ticket) = (owner.clone(), cast.ticket.clone());
        let mut dice = StdRng::seed_from_u64(u64::try_from(number).unwrap());
        let node = async move {
            let node = RegisterNodeRequest {
                register_ticket,
                join_key: PrivateKey::generate().unwrap().public_key().to_vec(),
                have_local_tpm: false,
                labels: Some(labels(&mut dice, 128)),
            };
            CuratorClient::new(unknown).register_node(bounded(node)).await.unwrap();
            // Few may wait for it.
            let pubkey = key.public_key().to_vec();
            let approve = bounded(ApproveNodeRequest { pubkey });
            ManagementClient::new(owner).approve_node(approve).await.unwrap();
        };
        registering.spawn_on(node, cast.runtime.handle());
        if registering.len() == 8 {
            cast.runtime.block_on(registering.join_next()).unwrap().unwrap();
        }
    }
    while let Some(done) = cast.runtime.block_on(registering.join_next()) {
        done.unwrap();
    }
}

/// Waits until the memory of the leader grows no more, and returns it in KiB.
fn settled(cast: &TlsCluster, leader: usize) -> u64 {
    let pid = cast.stage.curators[leader].pid();
    let mut before = resident(pid);
    wait_until("the memory to stop growing", 2 * SOON, || {
        std::thread::sleep(Duration::from_millis(500));
        let now = resident(pid);
        let grown = now.saturating_sub(std::mem::replace(&mut before, now));
        (grown < 256).then_some(now)
    })
    .unwrap()
}

#[test]
fn lists_and_watches_that_nobody_reads_cost_the_leader_little() {
    if crate::test_cluster::done_already() {
        return;
    }
    let cast = TlsCluster::new("tls-stalled", |options| options.leader_ttl(Duration::from_secs(30)));
    let worker = Node::new(&cast.stage.scratch, "worker");
    let registering = cast.register(&worker, cast.address(0));
    cast.approve(&worker, cast.address(0));
    registering.join().unwrap();
    let [leader, _] = cast.leader_and_follower();
    fill(&cast, leader);
    let at = cast.address(leader);
    // Somebody takes a list, and what that takes for a moment is there.
    let take = || {
        let mut owner = ManagementClient::new(cast.channel(Who::Owner, at));
        cast.runtime.block_on(async {
            let list = bounded(GetNodesRequest { filter: "true".into() });
            let mut answers = owner.get_nodes(list).await.unwrap().into_inner();
            let (mut nodes, mut bytes) = (0, 0);
            while let Some(node) = answers.message().await.unwrap() {
                nodes += 1;
                bytes += node.encoded_len();
            }
            (nodes, bytes)
        })
    };
    let (nodes, bytes) = take();
    assert!(nodes >= NODES && bytes > 13 << 20, "{nodes} nodes of {bytes} bytes");
    let mut measured = Vec::new();
    for (what, number, path) in [
        ("lists", LISTS, format!("{MANAGEMENT}/GetNodes")),
        ("watches", WATCHES, format!("{CURATOR}/Watch")),
    ] {
        let before = settled(&cast, leader);
        let open = async |channel: Channel| {
            let request = match what {
                "lists" => without_end(&GetNodesRequest { filter: "true".into() }),
                _ => without_end(&WatchRequest {
                    kind: Some(Kind::NodesInCluster(NodesInCluster {})),
                }),
            };
            raw::call(channel, &path, request).await.unwrap()
        };
        // On connections of ten, as one who wants to cost much would: each has windows of its own.
        let channels: Vec<_> = (0..number.div_ceil(10))
            .map(|_| cast.channel(Who::Node(&worker), at))
            .collect();
        let mut unread = Vec::new();
        for one in 0..number {
            unread.push(cast.runtime.block_on(open(channels[one / 10].clone())));
        }
        let during = settled(&cast, leader);
        // Nobody else waits for them.
        assert_eq!(take().0, nodes);
        drop((unread, channels));
        println!(
            "measured: {number} {what} of {bytes} bytes that nobody reads: {before} KiB before, {during} KiB with them"
        );
        measured.push((what, during.saturating_sub(before)));
    }
    assert!(measured.iter().all(|(_, cost)| *cost < MOST), "{measured:?}");
}
