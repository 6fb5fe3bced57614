//! The records of nodes that have registered and are up.

use curator_proto::common::{NodeLabels, NodeState, NodeStatus, node_labels};
use curator_proto::private::Node;
use prost::Message;

pub(crate) fn id(number: usize) -> String {
    format!("metropolis-{number:032x}")
}

fn labelled(number: usize, pairs: Vec<node_labels::Pair>) -> Vec<u8> {
    let node = Node {
        id: id(number),
        public_key: vec![7; 32],
        join_key: format!("{number:032}").into_bytes(),
        cluster_unlock_key: vec![1; 32],
        fsm_state: NodeState::Up.into(),
        roles: Some(Default::default()),
        status: Some(NodeStatus {
            external_address: "192.0.2.1".into(),
            ..NodeStatus::default()
        }),
        labels: Some(NodeLabels { pairs }),
        ..Node::default()
    };
    node.encode_to_vec()
}

/// With one label.
pub(crate) fn record(number: usize) -> Vec<u8> {
    let rack = node_labels::Pair {
        key: "rack".into(),
        value: "r1".into(),
    };
    labelled(number, vec![rack])
}

/// Labels of about so many bytes together.
pub(crate) fn labels(size: usize) -> Vec<node_labels::Pair> {
    let label = |label| node_labels::Pair {
        key: format!("measured-{label:04}"),
        value: "v".repeat(63),
    };
    (0..size / 83).map(label).collect()
}

/// With labels that fill it up to about so many bytes. They are valid: others would be in the store, and told to
/// nobody.
pub(crate) fn large(number: usize, size: usize) -> Vec<u8> {
    let missing = size.saturating_sub(record(number).len());
    labelled(number, labels(missing + 83))
}
