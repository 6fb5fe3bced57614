//! Warns once if etcd is not compacted: its database grows until it is out of space.

use std::time::Duration;

use bytes::Bytes;
use curator_election::etcd::EtcdStore;
use tracing::{debug, warn};

/// More history than this is unintended: etcd's periodic compaction keeps some hours.
const MAX_REVISIONS: i64 = 1_000_000;
/// The interval of checks.
const POLL_INTERVAL: Duration = Duration::from_secs(3_600);

/// Checks every hour. `key` must be a readable key. Never returns.
pub(super) async fn watch(etcd: &EtcdStore, key: Bytes) {
    let mut warned = false;
    loop {
        match etcd.keeps_more_than(MAX_REVISIONS, key.clone()).await {
            Ok(keeps) => {
                if keeps && !warned {
                    warn!(
                        revisions = MAX_REVISIONS,
                        "etcd is not compacted and will run out of space. Start its members with \
                         --auto-compaction-mode=periodic --auto-compaction-retention=1h, and defragment them"
                    );
                }
                warned = keeps;
            }
            Err(error) => debug!(%error, "cannot determine the length of etcd's history"),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
