//! The nodes, put into etcd as if they had registered.

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_election::store::{Op, Store, Txn};

use curator_service::{Bootstrap, bootstrap, wall_clock};

use crate::Failure;
use crate::nodes::{id, large};

/// What a record is filled up to, in bytes.
pub(crate) const SIZE: usize = 1_000;
/// As many are put in one transaction.
const TOGETHER: usize = 60;

/// Puts so many nodes there. Where there is no cluster yet, one is made whose keys nobody has.
pub(crate) async fn fill(etcd: &str, nodes: usize, is_made: bool) -> Result<(), Failure> {
    let etcd = EtcdStore::new(EtcdConfig::new(vec![etcd.to_owned()]))?;
    let store = Namespaced::with_siblings(etcd, "namespaced:curator".parse()?);
    // Without a cluster each call would read all of the state anew.
    let cluster = Bootstrap {
        node_public_key: vec![1; 32],
        join_public_key: vec![2; 32],
        owner_public_key: vec![3; 32],
        ..Bootstrap::default()
    };
    if !is_made {
        bootstrap(&store, &cluster, wall_clock()).await?;
    }
    let numbers: Vec<usize> = (1..=nodes).collect();
    for chunk in numbers.chunks(TOGETHER) {
        let put = |number: &usize| Op::put(format!("/nodes/{}", id(*number)), large(*number, SIZE));
        let ops = chunk.iter().map(put).collect();
        store.txn(Txn::default().then(ops)).await?;
    }
    Ok(())
}
