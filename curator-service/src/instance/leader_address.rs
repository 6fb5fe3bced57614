//! The address of a leader that does not advertise one, such as a Go leader: it is in the leader's node record.

use curator_election::store::{Keys, Range, Store, StoreError};
use curator_proto::private::Node;
use prost::Message;

use curator_identity::CURATOR_PORT;

/// Why the address is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAddress {
    #[error("the leader's node id is invalid")]
    NodeId,
    #[error("the leader's node record could not be read: {0}")]
    Read(#[from] StoreError),
    #[error("the leader has no node record")]
    NoRecord,
    #[error("the leader's node record cannot be decoded")]
    Corrupt(#[from] prost::DecodeError),
    #[error("the leader has not reported its address yet")]
    NotReported,
}

/// The host of a node, from its record. The port is always the Curator's.
pub(crate) async fn recorded_host(store: &dyn Store, node_id: &str) -> Result<String, NoAddress> {
    if node_id.is_empty() || node_id.contains('/') {
        return Err(NoAddress::NodeId);
    }
    let read = store.range(Range::all(Keys::one(format!("/nodes/{node_id}")))).await?;
    let record = read.kvs.first().ok_or(NoAddress::NoRecord)?;
    let node = Node::decode(record.value.as_ref())?;
    match node.status.map(|status| status.external_address) {
        Some(host) if !host.is_empty() => Ok(host),
        _ => Err(NoAddress::NotReported),
    }
}

/// The host with the Curator's port.
pub(crate) fn with_port(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{CURATOR_PORT}")
    } else {
        format!("{host}:{CURATOR_PORT}")
    }
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{Op, Txn};
    use curator_proto::common::NodeStatus;

    use super::*;

    /// A store with this record of `node-2`.
    async fn store_with(record: Vec<u8>) -> impl Store {
        let store = MemoryCluster::new(1).client(0);
        let txn = Txn {
            success: vec![Op::put("/nodes/node-2", record)],
            ..Txn::default()
        };
        store.txn(txn).await.expect("no faults");
        store
    }

    fn record(address: &str) -> Vec<u8> {
        let status = NodeStatus {
            external_address: address.into(),
            ..NodeStatus::default()
        };
        let node = Node {
            status: Some(status),
            ..Node::default()
        };
        node.encode_to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn the_host_is_read_from_the_record() {
        let store = store_with(record("10.0.0.2")).await;
        assert_eq!(recorded_host(&store, "node-2").await.expect("there"), "10.0.0.2");
        assert!(matches!(
            recorded_host(&store, "node-3").await,
            Err(NoAddress::NoRecord)
        ));
        for id in ["", "a/b"] {
            assert!(
                matches!(recorded_host(&store, id).await, Err(NoAddress::NodeId)),
                "{id:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_without_an_address_and_one_that_is_none_are_told_apart() {
        for record in [record(""), Node::default().encode_to_vec()] {
            let store = store_with(record).await;
            assert!(matches!(
                recorded_host(&store, "node-2").await,
                Err(NoAddress::NotReported)
            ));
        }
        let store = store_with(vec![0xff]).await;
        assert!(matches!(
            recorded_host(&store, "node-2").await,
            Err(NoAddress::Corrupt(_))
        ));
    }

    #[test]
    fn the_port_is_the_curators() {
        assert_eq!(with_port("10.0.0.2"), "10.0.0.2:7835");
        assert_eq!(with_port("fd00::2"), "[fd00::2]:7835");
    }
}
