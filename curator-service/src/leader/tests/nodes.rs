//! Queries and changes of nodes and of the cluster.

use std::time::Duration;

use curator_proto::common::cluster_configuration::Kubernetes;
use curator_proto::common::cluster_configuration::kubernetes::NodeLabelsToSynchronize;
use curator_proto::common::{ClusterConfiguration, NodeRoles, NodeState, node_labels};
use curator_proto::curator_api::GetConsensusStatusRequest;
use curator_proto::curator_api::get_consensus_status_response::etcd_member::Status as MemberStatus;
use curator_proto::management_api::node::Health;
use curator_proto::management_api::update_node_labels_request::{Node, Pair};
use curator_proto::management_api::{
    ConfigureClusterRequest, GetClusterInfoRequest, UpdateNodeLabelsRequest, UpdateNodeRolesRequest,
    update_node_roles_request,
};
use prost::Message;
use prost_types::FieldMask;
use tonic::Code;

use crate::consensus::Membership;
use crate::leader::tests::stage::{FIRST, Stage, consensus_member, id, key, refused};

#[tokio::test(start_paused = true)]
async fn nodes_are_told_by_id_and_filtered() {
    let stage = Stage::new().await;
    stage.up(3).await;
    stage.register(2).await.unwrap();
    assert_eq!(stage.ids("").await, [id(FIRST), id(2), id(3)]);
    assert_eq!(stage.ids("node.state == NODE_STATE_UP").await, [id(FIRST), id(3)]);
    stage
        .rewrite(&id(3), |node| {
            node.roles = Some(NodeRoles {
                consensus_member: Some(consensus_member()),
                ..NodeRoles::default()
            });
        })
        .await;
    assert_eq!(stage.ids("has(node.roles.consensus_member)").await, [id(3)]);
    let told = stage.nodes("node.id.endsWith('03')").await.unwrap().remove(0);
    assert_eq!(told.pubkey, key(3));
    let role = told.roles.unwrap().consensus_member.unwrap();
    assert_eq!(role, Default::default(), "the role is reported without its contents");
    assert_eq!(refused(stage.nodes("node.").await), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn health_follows_heartbeats_in_this_term() {
    let stage = Stage::new().await;
    stage.register(2).await.unwrap();
    let health = async |number: u8| {
        let nodes = stage.nodes("").await.unwrap();
        let node = nodes.into_iter().find(|node| node.id == id(number)).unwrap();
        (node.health(), node.time_since_heartbeat.unwrap().seconds)
    };
    assert_eq!(health(FIRST).await, (Health::Unknown, 9_223_372_036));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(health(FIRST).await, (Health::HeartbeatTimeout, 9_223_372_036));
    stage.leader.heartbeats.heard(&id(FIRST));
    stage.leader.heartbeats.heard(&id(2));
    assert_eq!(health(FIRST).await, (Health::Healthy, 0));
    assert_eq!(health(2).await, (Health::Unknown, 0), "not up");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(health(FIRST).await, (Health::Healthy, 10));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(health(FIRST).await, (Health::HeartbeatTimeout, 10));
    stage.leader.heartbeats.heard(&id(FIRST));
    tokio::time::advance(Duration::from_secs(5)).await;
    let window = "node.time_since_heartbeat < duration('6s') && node.time_since_heartbeat > duration('4s')";
    assert_eq!(stage.ids(window).await, [id(FIRST)]);
}

#[tokio::test(start_paused = true)]
async fn the_directory_has_nodes_that_are_up_and_their_addresses() {
    let stage = Stage::new().await;
    let info = || stage.leader.get_cluster_info(GetClusterInfoRequest {});
    stage.register(2).await.unwrap();
    assert!(
        info().await.unwrap().cluster_directory.unwrap().nodes[0]
            .addresses
            .is_empty()
    );
    stage.report(FIRST, "192.0.2.10").await.unwrap();
    let told = info().await.unwrap();
    let nodes = told.cluster_directory.unwrap().nodes;
    assert_eq!(nodes.len(), 1);
    assert_eq!(
        (nodes[0].id.clone(), nodes[0].addresses[0].host.as_str()),
        (id(FIRST), "192.0.2.10")
    );
    assert_eq!(
        told.ca_certificate,
        stage.value("/cluster-pki/issued/cluster-ca-cert.der").await.unwrap()
    );
    assert_eq!(told.cluster_configuration.unwrap().cluster_domain, "cluster.internal");
    for number in 10..30 {
        stage.up(number).await;
    }
    assert_eq!(info().await.unwrap().cluster_directory.unwrap().nodes.len(), 15);
}

#[tokio::test(start_paused = true)]
async fn the_status_is_the_nodes_own() {
    let stage = Stage::new().await;
    assert_eq!(stage.record(&id(FIRST)).await.status, None);
    stage.report(FIRST, "192.0.2.10").await.unwrap();
    let status = stage.record(&id(FIRST)).await.status.unwrap();
    assert_eq!(
        status.timestamp.unwrap().seconds,
        1_750_000_000,
        "the leader's, not the node's"
    );
    for wrong in ["", "nowhere", "192.0.2.10:1", "fe80::1%eth0", "300.1.1.1"] {
        assert_eq!(
            refused(stage.report(FIRST, wrong).await),
            Code::InvalidArgument,
            "{wrong}"
        );
    }
    assert_eq!(refused(stage.report(2, "192.0.2.10").await), Code::NotFound);
    let other = curator_proto::curator_api::UpdateNodeStatusRequest {
        node_id: id(FIRST),
        status: Some(status),
    };
    assert_eq!(
        refused(stage.leader.update_node_status(&id(2), other).await),
        Code::PermissionDenied
    );
}

fn labels(number: u8, upsert: &[(&str, &str)], delete: &[&str]) -> UpdateNodeLabelsRequest {
    UpdateNodeLabelsRequest {
        node: Some(Node::Id(id(number))),
        upsert: upsert
            .iter()
            .map(|(key, value)| Pair {
                key: (*key).into(),
                value: (*value).into(),
            })
            .collect(),
        delete: delete.iter().map(|key| (*key).into()).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn labels_are_changed_all_or_none() {
    let stage = Stage::new().await;
    let update = |request| stage.leader.update_node_labels(request);
    update(labels(FIRST, &[("b", "2"), ("a", "1")], &["nothing"]))
        .await
        .unwrap();
    update(labels(FIRST, &[("c", "")], &["a"])).await.unwrap();
    update(labels(FIRST, &[], &[])).await.unwrap();
    let pair = |key: &str, value: &str| node_labels::Pair {
        key: key.into(),
        value: value.into(),
    };
    let expected = [pair("b", "2"), pair("c", "")];
    assert_eq!(stage.record(&id(FIRST)).await.labels.unwrap().pairs, expected);
    for (upsert, delete) in [
        (&[("d", "1"), ("d", "2")][..], &[][..]),
        (&[("d", "1")], &["b", "b"]),
        (&[("d", "1")], &["d"]),
        (&[("-", "1")], &[]),
        (&[("d", "/")], &[]),
        (&[], &["-"]),
    ] {
        assert_eq!(
            refused(update(labels(FIRST, upsert, delete)).await),
            Code::InvalidArgument
        );
    }
    let names: Vec<String> = (0..127).map(|number| format!("x{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(refused(update(labels(FIRST, &many, &[])).await), Code::OutOfRange);
    assert_eq!(stage.record(&id(FIRST)).await.labels.unwrap().pairs, expected);
    update(labels(FIRST, &many, &["c"])).await.unwrap();
    assert_eq!(refused(update(labels(9, &[], &[])).await), Code::NotFound);
}

fn roles(
    number: u8,
    consensus: Option<bool>,
    controller: Option<bool>,
    worker: Option<bool>,
) -> UpdateNodeRolesRequest {
    UpdateNodeRolesRequest {
        node: Some(update_node_roles_request::Node::Pubkey(key(number).to_vec())),
        consensus_member: consensus,
        kubernetes_controller: controller,
        kubernetes_worker: worker,
    }
}

#[tokio::test(start_paused = true)]
async fn roles_are_given_and_taken() {
    let stage = Stage::new().await;
    stage.up(2).await;
    let update = |request| stage.leader.update_node_roles(request);
    let has = async || {
        let roles = stage.record(&id(2)).await.roles.unwrap();
        (
            roles.consensus_member.is_some(),
            roles.kubernetes_controller.is_some(),
            roles.kubernetes_worker.is_some(),
        )
    };
    let (yes, no) = (Some(true), Some(false));
    update(roles(2, no, None, yes)).await.unwrap();
    assert_eq!(has().await, (false, false, true));
    for consensus in [None, no] {
        let before = stage.members.members().await.unwrap();
        assert_eq!(
            refused(update(roles(2, consensus, yes, None)).await),
            Code::FailedPrecondition
        );
        assert_eq!(stage.members.members().await.unwrap(), before);
    }
    update(roles(2, yes, yes, None)).await.unwrap();
    assert_eq!(has().await, (true, true, true));
    let members = stage.members.members().await.unwrap();
    assert_eq!(members.len(), 2);
    assert!(members[1].learner && members[1].node_id() == id(2), "{members:?}");
    let role = stage.record(&id(2)).await.roles.unwrap().consensus_member.unwrap();
    assert_eq!(role.peers.len(), 1);
    assert_eq!(role.peers[0].url, format!("https://{}:7834", id(FIRST)));
    assert_eq!(curator_identity::public_key_of(&role.peer_certificate), Some(key(2)));
    // Repeated, it is still one member with the same certificate.
    update(roles(2, yes, None, None)).await.unwrap();
    assert_eq!(stage.members.members().await.unwrap().len(), 2);
    let again = stage.record(&id(2)).await.roles.unwrap().consensus_member.unwrap();
    assert_eq!(again.peer_certificate, role.peer_certificate);

    // A refused request changes nothing, not even the membership.
    assert_eq!(refused(update(roles(2, no, no, None)).await), Code::FailedPrecondition);
    assert_eq!(stage.members.members().await.unwrap().len(), 2);
    update(roles(2, None, no, None)).await.unwrap();
    update(roles(2, no, None, None)).await.unwrap();
    assert_eq!(has().await, (false, false, true));
    assert_eq!(stage.members.members().await.unwrap().len(), 1);
    assert_eq!(refused(update(roles(9, None, None, yes)).await), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn the_consensus_members_are_told() {
    let stage = Stage::new().await;
    stage.up(2).await;
    stage
        .leader
        .update_node_roles(roles(2, Some(true), None, None))
        .await
        .unwrap();
    let told = stage
        .leader
        .get_consensus_status(GetConsensusStatusRequest {})
        .await
        .unwrap();
    let told: Vec<_> = told
        .etcd_member
        .iter()
        .map(|member| (member.id.clone(), member.status()))
        .collect();
    assert_eq!(told, [(id(FIRST), MemberStatus::Full), (id(2), MemberStatus::Learner)]);
    stage.watched.answers.store(false, std::sync::atomic::Ordering::Relaxed);
    let silent = stage.leader.get_consensus_status(GetConsensusStatusRequest {}).await;
    assert_eq!(refused(silent), Code::Internal);
    assert_eq!(
        refused(stage.leader.update_node_roles(roles(2, Some(false), None, None)).await),
        Code::Unavailable
    );
}

#[tokio::test(start_paused = true)]
async fn the_configuration_is_changed_and_what_is_unknown_in_it_stays() {
    let stage = Stage::new().await;
    // Field 200, which is unknown here.
    let unknown = [0xc2, 0x0c, 0x03, b'n', b'e', b'w'];
    let mut stored = stage.value("/cluster/configuration").await.unwrap().to_vec();
    stored.extend(unknown);
    let revision = stage.put("/cluster/configuration", stored).await;
    stage.followed("/cluster/configuration", revision).await;
    let request = ConfigureClusterRequest {
        base_config: None,
        new_config: Some(ClusterConfiguration {
            kubernetes: Some(Kubernetes {
                node_labels_to_synchronize: vec![NodeLabelsToSynchronize { regexp: "^a".into() }],
            }),
            ..ClusterConfiguration::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["kubernetes.node_labels_to_synchronize".into()],
        }),
    };
    let changed = stage
        .leader
        .configure_cluster(request)
        .await
        .unwrap()
        .resulting_config
        .unwrap();
    assert_eq!(changed.cluster_domain, "cluster.internal");
    let stored = stage.value("/cluster/configuration").await.unwrap();
    assert_eq!(ClusterConfiguration::decode(stored.clone()).unwrap(), changed);
    assert!(stored.windows(unknown.len()).any(|window| window == unknown));
    let no_mask = ConfigureClusterRequest {
        new_config: Some(ClusterConfiguration::default()),
        ..ConfigureClusterRequest::default()
    };
    assert_eq!(
        refused(stage.leader.configure_cluster(no_mask).await),
        Code::InvalidArgument
    );
}

/// An invalid stored value is not reported as an error of the caller.
#[tokio::test(start_paused = true)]
async fn a_configuration_that_cannot_be_used_is_an_internal_error() {
    let stage = Stage::new().await;
    let no_change = || ConfigureClusterRequest {
        new_config: Some(ClusterConfiguration::default()),
        update_mask: Some(FieldMask::default()),
        ..ConfigureClusterRequest::default()
    };
    for broken in [&b"\xff\xff"[..], b"", b"\x08\x63"] {
        let revision = stage.put("/cluster/configuration", broken).await;
        stage.followed("/cluster/configuration", revision).await;
        let error = stage.leader.configure_cluster(no_change()).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal, "{broken:?}");
        assert!(error.message().contains("/cluster/configuration"), "{error}");
        // Other calls still succeed.
        let told = stage.leader.get_cluster_info(GetClusterInfoRequest {}).await.unwrap();
        assert_eq!(told.cluster_configuration, None);
        assert_eq!(refused(stage.register(2).await), Code::Unavailable);
    }
}

/// A value that cannot be decoded is reported with its key, and everything else continues.
#[tokio::test(start_paused = true)]
async fn a_corrupt_record_does_not_take_the_rest_down() {
    let stage = Stage::new().await;
    stage.up(2).await;
    let broken = format!("/nodes/{}", id(3));
    let revision = stage.put(&broken, &b"\xff\xff"[..]).await;
    stage.followed(&broken, revision).await;
    assert_eq!(stage.ids("").await, [id(FIRST), id(2)]);
    let error = stage.approve(3).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains(&broken), "{error}");
    // Unauthenticated callers do not learn the key.
    let error = crate::leader::nodes::lookup::to_stranger(error);
    assert_eq!(error.code(), Code::Unavailable);
    assert!(!error.message().contains("/nodes/"), "{error}");
    stage.report(2, "192.0.2.2").await.unwrap();
    stage.leader.get_cluster_info(GetClusterInfoRequest {}).await.unwrap();
    // A record with the ID of another node is invalid as well.
    let other = stage.record(&id(2)).await.encode_to_vec();
    let revision = stage.put(&broken, other).await;
    stage.followed(&broken, revision).await;
    assert_eq!(refused(stage.approve(3).await), Code::Unavailable);
    // A record without roles is a node without roles.
    stage.rewrite(&id(2), |node| node.roles = None).await;
    assert_eq!(
        stage.ids("has(node.roles) && node.state == NODE_STATE_UP").await,
        [id(FIRST), id(2)]
    );
    assert_eq!(stage.record(&id(2)).await.fsm_state(), NodeState::Up);
}
