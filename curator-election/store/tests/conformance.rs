//! The stores of this crate against the conformance suite.

#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::sync::Arc;

use curator_store::conformance;
use curator_store::memory::MemoryCluster;

#[tokio::test(start_paused = true)]
async fn conformance_of_the_model() {
    let cluster = MemoryCluster::new(1);
    conformance::check_all(Arc::new(cluster.client(0)), "/conformance").await;
    conformance::check_two(Arc::new(cluster.client(0)), Arc::new(cluster.client(1)), "/two").await;
}

#[cfg(feature = "embedded")]
mod embedded {
    use std::path::PathBuf;

    use curator_store::embedded::EmbeddedStore;

    use super::*;

    /// A directory that is gone in the end, also of a test that fails: its name may come again.
    struct Dir(PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn conformance_of_the_embedded_store() {
        let dir = Dir(std::env::temp_dir().join(format!("curator-conformance-{}", std::process::id())));
        let store = Arc::new(EmbeddedStore::open(&dir.0).unwrap());
        conformance::check_all(store.clone(), "/conformance").await;
        conformance::check_two(store.clone(), store.clone(), "/two").await;
        store.close().unwrap();
    }
}
