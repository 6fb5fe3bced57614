//! The nodes, put into etcd as if they had registered.

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_election::store::{Op, Store, Txn};
use curator_proto::common::{NodeLabels, NodeState, NodeStatus, node_labels};
use curator_proto::private::Node;
use prost::Message;

use crate::{Failure, id};

/// What a record is filled up to, in bytes.
const SIZE: usize = 1_000;
/// As many are put in one transaction.
const TOGETHER: usize = 60;

pub(crate) async fn fill(etcd: &str, nodes: usize) -> Result<(), Failure> {
    let etcd = EtcdStore::new(EtcdConfig::new(vec![etcd.to_owned()]))?;
    let store = Namespaced::new(etcd, "namespaced:curator".parse()?);
    let numbers: Vec<usize> = (1..=nodes).collect();
    for chunk in numbers.chunks(TOGETHER) {
        let put = |number: &usize| Op::put(format!("/nodes/{}", id(*number)), record(*number));
        let ops = chunk.iter().map(put).collect();
        store.txn(Txn::default().then(ops)).await?;
    }
    Ok(())
}

fn record(number: usize) -> Vec<u8> {
    let mut node = Node {
        id: id(number),
        public_key: number.to_be_bytes().repeat(4),
        join_key: format!("{number:032}").into_bytes(),
        cluster_unlock_key: vec![1; 32],
        fsm_state: NodeState::Up.into(),
        roles: Some(Default::default()),
        status: Some(NodeStatus {
            external_address: "192.0.2.1".into(),
            ..NodeStatus::default()
        }),
        ..Node::default()
    };
    let missing = SIZE.saturating_sub(node.encoded_len());
    let pairs = (0..missing / 80).map(|label| node_labels::Pair {
        key: format!("label-{label:04}"),
        value: "v".repeat(60),
    });
    node.labels = Some(NodeLabels { pairs: pairs.collect() });
    node.encode_to_vec()
}
