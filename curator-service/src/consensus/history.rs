//! Says, once, that nobody compacts an etcd: it grows until it takes no more writes.

use std::time::Duration;

use bytes::Bytes;
use curator_election::etcd::EtcdStore;
use tracing::{debug, warn};

/// As much history is no accident: etcd's own periodic compaction keeps hours of it.
const MAX_REVISIONS: i64 = 1_000_000;
/// How often to look.
const POLL_INTERVAL: Duration = Duration::from_secs(3_600);

/// Looks each hour. `key` is one that may be read. Never returns.
pub(super) async fn watch(etcd: &EtcdStore, key: Bytes) {
    let mut told = false;
    loop {
        match etcd.keeps_more_than(MAX_REVISIONS, key.clone()).await {
            Ok(keeps) => {
                if keeps && !told {
                    warn!(
                        revisions = MAX_REVISIONS,
                        "etcd keeps all of its history, and will run out of space: nobody compacts it. Start its members with \
                         --auto-compaction-mode=periodic --auto-compaction-retention=1h, and defragment them"
                    );
                }
                told = keeps;
            }
            Err(error) => debug!(%error, "how much history etcd keeps is not known"),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
