//! The marker of a store with an unfinished import.
//!
//! It is written before any other key of an import, and removed by the transaction that writes the last one. While it
//! exists, no instance leads on the store, exports it, or bootstraps a cluster in it.

use std::time::Duration;

use bytes::Bytes;
use curator_election::store::{Keys, Range, Store, StoreError};
use curator_election::{ElectionStatus, Reason};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use crate::status::LeaderStatus;

/// The marker's key. Its value is the digest of the file.
pub(crate) const MARK: &str = "/import/unfinished";
/// The interval at which a waiting instance checks the marker.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// An import into the store has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an import into this store has not finished, so the cluster is incomplete: resume it with `curator import \
     --resume FILE`, or empty the store and start again"
)]
pub struct Unfinished;

/// Whether the marker exists. Cancellation safe.
pub(crate) async fn is_marked(store: &dyn Store) -> Result<bool, StoreError> {
    let mark = Range {
        keys_only: true,
        ..Range::all(Keys::One(Bytes::from_static(MARK.as_bytes())))
    };
    Ok(!store.range(mark).await?.kvs.is_empty())
}

/// Completes once the store has no marker. The reason for waiting is published as the status. Cancellation safe.
pub(crate) async fn until_gone(store: &dyn Store, status: &watch::Sender<LeaderStatus>) {
    let mut said = false;
    loop {
        let reason = match is_marked(store).await {
            Ok(false) if said => {
                info!("the import into the store has finished");
                return;
            }
            Ok(false) => return,
            Ok(true) => {
                if !std::mem::replace(&mut said, true) {
                    error!("this instance does not stand for election: {Unfinished}");
                }
                Reason::Barred(Unfinished.to_string())
            }
            Err(error) => Reason::OpenFailed {
                word: error.word(),
                error: error.to_string(),
            },
        };
        status.send_if_modified(|known| {
            let new = ElectionStatus::Undetermined(reason);
            let changed = *known != new;
            *known = new;
            changed
        });
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{Op, Txn};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_goes_on_once_the_import_has_ended() {
        let store = MemoryCluster::new(1).client(0);
        let txn = |op| store.txn(Txn::default().then(vec![op]));
        txn(Op::put(MARK, "digest")).await.expect("no faults");
        let (sender, mut status) = watch::channel(ElectionStatus::Undetermined(Reason::Starting));
        let mut waiting = std::pin::pin!(until_gone(&store, &sender));
        let barred = |status: &LeaderStatus| matches!(status, ElectionStatus::Undetermined(Reason::Barred(_)));
        tokio::select! {
            () = &mut waiting => panic!("it is there"),
            told = status.wait_for(barred) => drop(told.expect("it is told why")),
        }
        txn(Op::delete(MARK)).await.expect("no faults");
        waiting.await;
    }
}
