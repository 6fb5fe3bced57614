//! Bytes written by hand from the facts of the wire contract, not by our encoder.

use curator_proto::common::cluster_configuration::{Kubernetes, kubernetes::NodeLabelsToSynchronize};
use curator_proto::common::{
    ClusterConfiguration, NodeClusterNetworking, NodeLabels, NodeRoles, NodeState, NodeStatus, NodeTpmUsage,
};
use curator_proto::curator_api::{WatchEvent, watch_event};
use curator_proto::management_api::{
    DeleteNodeRequest, UpdateNodeRolesRequest, delete_node_request, update_node_roles_request,
};
use curator_proto::private::{InitialOwner, LeaderElectionValue, Node, RegisterTicket};
use prost::Message;

fn check<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, bytes: &[u8]) {
    assert_eq!(message.encode_to_vec(), bytes);
    assert_eq!(&M::decode(bytes).expect("decodes"), message);
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).expect("short")], content].concat()
}

#[test]
fn leader_election_value() {
    let mut value = LeaderElectionValue {
        node_id: "node".into(),
        ttl: 10,
        advertised_addresses: vec![],
        ..Default::default()
    };
    check(&value, b"\x0a\x04node\x10\x0a");
    // Field 100, a string: (100 << 3) | 2 = 802 = 0xa2 0x06 as a varint.
    value.advertised_addresses.push("h:1".into());
    check(&value, b"\x0a\x04node\x10\x0a\xa2\x06\x03h:1");
    // Field 101: (101 << 3) | 2 = 810 = 0xaa 0x06.
    value.transfer_to_key.push_str("/l/1");
    check(&value, b"\x0a\x04node\x10\x0a\xa2\x06\x03h:1\xaa\x06\x04/l/1");
    // Fields 102 and 103: 818 = 0xb2 0x06, 826 = 0xba 0x06.
    value.process.push('p');
    value.boot.push('b');
    check(
        &value,
        b"\x0a\x04node\x10\x0a\xa2\x06\x03h:1\xaa\x06\x04/l/1\xb2\x06\x01p\xba\x06\x01b",
    );
}

#[test]
fn stored_node() {
    let node = Node {
        public_key: vec![1; 32],
        cluster_unlock_key: vec![2; 32],
        fsm_state: NodeState::Up.into(),
        roles: Some(NodeRoles::default()),
        status: Some(NodeStatus {
            external_address: "10.0.0.1".into(),
            ..Default::default()
        }),
        join_key: vec![3; 32],
        clusternet: Some(NodeClusterNetworking {
            wireguard_pubkey: "k".into(),
            prefixes: vec![],
        }),
        tpm_usage: NodeTpmUsage::PresentAndUsed.into(),
        labels: Some(NodeLabels::default()),
        id: "metropolis-01".into(),
    };
    let bytes = [
        tagged(0x0a, &[1; 32]),
        tagged(0x12, &[2; 32]),
        vec![0x18, 3],
        // Present although empty.
        tagged(0x22, &[]),
        tagged(0x2a, &tagged(0x0a, b"10.0.0.1")),
        tagged(0x32, &[3; 32]),
        tagged(0x3a, &tagged(0x0a, b"k")),
        vec![0x40, 3],
        tagged(0x4a, &[]),
        tagged(0x52, b"metropolis-01"),
    ];
    check(&node, &bytes.concat());
}

#[test]
fn register_ticket_and_initial_owner() {
    check(
        &RegisterTicket { opaque: vec![7; 32] },
        &[&[0x0a, 0x20][..], &[7; 32]].concat(),
    );
    check(
        &InitialOwner {
            public_key: vec![9; 32],
        },
        &[&[0x0a, 0x20][..], &[9; 32]].concat(),
    );
}

#[test]
fn cluster_configuration() {
    let rules = vec![NodeLabelsToSynchronize { regexp: "^a$".into() }];
    let configuration = ClusterConfiguration {
        tpm_mode: 1,
        storage_security_policy: 3,
        kubernetes: Some(Kubernetes {
            node_labels_to_synchronize: rules,
        }),
        cluster_domain: "c".into(),
    };
    check(&configuration, b"\x08\x01\x10\x03\x1a\x07\x1a\x05\x0a\x03^a$\x22\x01c");
}

#[test]
fn watch_event() {
    let event = WatchEvent {
        nodes: vec![],
        progress: watch_event::Progress::LastBacklogged.into(),
        node_tombstones: vec![watch_event::NodeTombstone { node_id: "n".into() }],
    };
    check(&event, b"\x10\x01\x1a\x03\x0a\x01n");
}

#[test]
fn selectors_have_different_numbers() {
    let roles = UpdateNodeRolesRequest {
        node: Some(update_node_roles_request::Node::Id("n".into())),
        // Set to false is not the same as not set.
        kubernetes_worker: Some(false),
        ..Default::default()
    };
    // The encoder writes a oneof where its first member stands; the contract asks for equal bytes only of stored
    // messages.
    check(&roles, b"\x22\x01n\x10\x00");
    assert_eq!(
        UpdateNodeRolesRequest::decode(&b"\x10\x00\x22\x01n"[..]).expect("decodes"),
        roles
    );
    let delete = DeleteNodeRequest {
        node: Some(delete_node_request::Node::Id("n".into())),
        safety_bypass_has_roles: Some(delete_node_request::SafetyBypassHasRoles {}),
        ..Default::default()
    };
    check(&delete, b"\x12\x01n\x1a\x00");
}
