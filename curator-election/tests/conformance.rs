//! The stores of this crate against the conformance suite.

#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::sync::Arc;

use curator_election::conformance;
use curator_election::memory::MemoryCluster;

#[tokio::test(start_paused = true)]
async fn conformance_of_the_model() {
    let cluster = MemoryCluster::new(1);
    conformance::check_all(Arc::new(cluster.client(0)), "/conformance").await;
}

#[cfg(feature = "embedded")]
mod embedded {
    use curator_election::embedded::EmbeddedStore;

    use super::*;

    #[tokio::test]
    async fn conformance_of_the_embedded_store() {
        let dir = std::env::temp_dir().join(format!("curator-conformance-{}", std::process::id()));
        let store = Arc::new(EmbeddedStore::open(&dir).unwrap());
        conformance::check_all(store.clone(), "/conformance").await;
        store.close().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
