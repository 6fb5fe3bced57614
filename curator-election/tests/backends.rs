//! The backends of this crate against the conformance suite of backends.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use curator_election::conformance::backends;
use curator_election::memory::MemoryCluster;
use curator_election::namespace::Namespaced;
use curator_election::store::Store;
use curator_election::{ElectionBackend, FakeElection, StoreElection};

fn election(store: Arc<dyn Store>) -> Arc<dyn ElectionBackend> {
    Arc::new(StoreElection::new(store, "/leader", Duration::from_secs(1)))
}

#[tokio::test(start_paused = true)]
async fn election_on_a_store_conforms() {
    let cluster = MemoryCluster::new(1);
    let client = |number| election(Arc::new(cluster.client(number)));
    backends::check_all(client(0), client(1)).await;
    let within = |number| {
        let namespace = "jobs".parse().unwrap();
        election(Arc::new(Namespaced::new(cluster.client(number), namespace)))
    };
    backends::check_all(within(0), within(1)).await;
}

#[tokio::test(start_paused = true)]
async fn fake_election_conforms() {
    let fake = Arc::new(FakeElection::new());
    backends::check_all(fake.clone(), fake).await;
}
