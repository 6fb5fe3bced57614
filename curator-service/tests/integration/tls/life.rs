//! The whole life of a cluster over TLS: through followers, and while leaders are killed and stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use curator_harness::Mark;
use curator_proto::common::{NodeState, NodeStatus};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{
    GetConsensusStatusRequest, HeartbeatRequest, JoinNodeRequest, UpdateNodeStatusRequest,
};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::node::Health;
use curator_proto::management_api::{
    self as api, DecommissionNodeRequest, DeleteNodeRequest, GetNodesRequest, decommission_node_request,
    delete_node_request,
};
use curator_service::PrivateKey;
use tonic::Code;

use super::cluster::{Node, TlsCluster, UNLOCK_KEY, Who, bounded, escrow};
use crate::test_cluster::SOON;

impl TlsCluster {
    /// A node as the owner sees it.
    fn seen(&self, id: &str, instance: usize) -> Option<api::Node> {
        let mut management = ManagementClient::new(self.channel(Who::Owner, self.address(instance)));
        let filter = format!("node.id == '{id}'");
        self.runtime.block_on(async {
            let nodes = management.get_nodes(bounded(GetNodesRequest { filter })).await;
            nodes.unwrap().into_inner().message().await.unwrap()
        })
    }
}

#[test]
fn the_whole_life_of_a_cluster() {
    let mut cast = TlsCluster::new("tls-life", |options| options);
    let [leader, follower] = cast.leader_and_follower();
    // There is one certificate of the owner, whoever is asked, and for nobody else.
    for instance in 0..3 {
        let at = cast.address(instance);
        let again = cast.runtime.block_on(escrow(&cast.ca, &cast.owner.1, at)).unwrap();
        assert_eq!(again, cast.owner.0);
        let other = PrivateKey::generate().unwrap();
        let refused = cast.runtime.block_on(escrow(&cast.ca, &other, at)).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }

    // A node from nothing, through a follower, with its leader killed on the way.
    let worker = Node::new(&cast.stage.scratch, "worker");
    let registering = cast.register(&worker, cast.address(follower));
    curator_harness::wait_until("the node to be registered", SOON, || cast.seen(&worker.id, follower)).unwrap();
    cast.stage.silence(leader);
    cast.stage.curators[leader].kill().unwrap();
    cast.approve(&worker, cast.address(follower));
    registering.join().unwrap();
    cast.stage.curators[leader].restart().unwrap();
    cast.stage.agreed(SOON);

    // It comes back after a restart, reports, and beats: through each instance.
    for instance in 0..3 {
        let at = cast.address(instance);
        cast.runtime.block_on(async {
            let request = JoinNodeRequest {
                using_sealed_configuration: false,
            };
            let mut joining = CuratorClient::new(cast.channel(Who::Key(&worker.join_key), at));
            let joined = joining.join_node(bounded(request)).await.unwrap();
            assert_eq!(joined.into_inner().cluster_unlock_key, UNLOCK_KEY);
            let mut curator = CuratorClient::new(cast.channel(Who::Node(&worker), at));
            let status = UpdateNodeStatusRequest {
                node_id: worker.id.clone(),
                status: Some(NodeStatus {
                    external_address: format!("192.0.2.{}", instance + 1),
                    ..NodeStatus::default()
                }),
            };
            curator.update_node_status(bounded(status)).await.unwrap();
            let beats = tokio_stream::iter([HeartbeatRequest {}, HeartbeatRequest {}]);
            let mut answers = curator.heartbeat(bounded(beats)).await.unwrap().into_inner();
            for _ in 0..2 {
                answers.message().await.unwrap().unwrap();
            }
            assert_eq!(answers.message().await.unwrap(), None);
        });
        let seen = cast.seen(&worker.id, instance).unwrap();
        let address = seen.status.as_ref().unwrap().external_address.clone();
        assert_eq!((seen.state(), seen.health()), (NodeState::Up, Health::Healthy));
        assert_eq!(address, format!("192.0.2.{}", instance + 1));
    }

    // A leader that is told to stop costs those nothing who call the others.
    let [leader, follower] = cast.leader_and_follower();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..3)
        .filter(|instance| *instance != leader)
        .map(|instance| {
            let mut curator = CuratorClient::new(cast.channel(Who::Node(&worker), cast.address(instance)));
            let stop = stop.clone();
            cast.runtime.spawn(async move {
                let mut calls = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    curator
                        .get_consensus_status(bounded(GetConsensusStatusRequest {}))
                        .await
                        .unwrap();
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let marks = cast.stage.marks();
    cast.stage.curators[leader].terminate().unwrap();
    cast.stage.curators[leader].wait_exit(SOON).unwrap();
    let others = cast.stage.others(leader);
    cast.stage.next_leader(&others, &marks, SOON);
    cast.seen(&worker.id, follower).unwrap();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        let calls = cast
            .runtime
            .block_on(async { tokio::time::timeout(SOON, caller).await.unwrap().unwrap() });
        assert!(calls > 0);
    }
    cast.stage.curators[leader].restart().unwrap();
    let [leader, follower] = cast.leader_and_follower();
    cast.stage.nobody_led_beside_another();

    // One of the three goes for good: out of the consensus, then out of service, then deleted.
    let leaving = (leader + 2) % 3;
    let id = cast.nodes[leaving].id.clone();
    let mut management = ManagementClient::new(cast.channel(Who::Owner, cast.address(follower)));
    let decommission = DecommissionNodeRequest {
        node: Some(decommission_node_request::Node::Id(id.clone())),
    };
    cast.runtime
        .block_on(management.decommission_node(bounded(decommission)))
        .unwrap();
    curator_harness::wait_until("the node to be decommissioned", 4 * SOON, || {
        // Each look costs a handshake.
        std::thread::sleep(Duration::from_millis(200));
        let seen = cast.seen(&id, follower).unwrap();
        (seen.state() == NodeState::Decommissioned).then_some(())
    })
    .unwrap();
    // Its instance still runs, still follows, and forwards no more.
    let mut through = CuratorClient::new(cast.channel(Who::Node(&worker), cast.address(leaving)));
    let refused = cast
        .runtime
        .block_on(through.get_consensus_status(bounded(GetConsensusStatusRequest {})))
        .unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unavailable,
        "another instance can be called: {refused}"
    );
    assert!(
        refused.message().contains("only members of the consensus may forward"),
        "{refused}"
    );
    let delete = DeleteNodeRequest {
        node: Some(delete_node_request::Node::Id(id)),
        ..DeleteNodeRequest::default()
    };
    cast.runtime.block_on(management.delete_node(bounded(delete))).unwrap();
    // Its certificate is as good as ever, and opens nothing from the next call on.
    for instance in [leader, follower] {
        let gone = Who::Node(&cast.nodes[leaving]);
        let mut curator = CuratorClient::new(cast.channel(gone, cast.address(instance)));
        let refused = cast
            .runtime
            .block_on(curator.get_consensus_status(bounded(GetConsensusStatusRequest {})))
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    for curator in &cast.stage.curators {
        assert!(
            curator
                .events_since(Mark::START)
                .iter()
                .all(|event| event.text_of("level") != Some("ERROR")),
            "{} logged an error",
            curator.name()
        );
    }
}
