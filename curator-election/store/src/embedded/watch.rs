//! Watches: notified of each commit, a watch reads the changes after its revision, page by page.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;

use super::handle::Handle;
use super::worker::MAX_BATCH;
use crate::memory::model::Page;
use crate::{Keys, Revision, StoreError, WatchBatch, WatchStream};

/// The maximum number of revisions that a watch reads at once: more than a commit holds, so that it keeps up.
const PAGE_SIZE: usize = 2 * MAX_BATCH;
/// How often an idle watch polls the store, to detect a store that hangs.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

struct Watch {
    handle: Handle,
    keys: Keys,
    /// The next revision to read.
    next: Revision,
    more: bool,
    pending: VecDeque<WatchBatch>,
    committed: watch::Receiver<Revision>,
    over: bool,
}

/// Opens a watch, once its first revision is known.
pub(super) async fn open(handle: Handle, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
    // Subscribed before the revision is read, so that no commit is missed.
    let committed = handle.committed();
    let next = {
        let keys = keys.clone();
        handle.call(move |state| {
            let model = &state.model;
            let begin = if from == Revision(0) {
                model.revision().next()
            } else {
                from
            };
            model.page(&keys, begin, 0).map(|_| begin)
        })
    };
    let watch = Watch {
        next: next.await?,
        handle,
        keys,
        more: true,
        pending: VecDeque::new(),
        committed,
        over: false,
    };
    let batches = futures::stream::unfold(watch, |mut watch| async move {
        if watch.over {
            return None;
        }
        let batch = watch.next().await;
        watch.over = batch.is_err();
        Some((batch, watch))
    });
    Ok(batches.boxed())
}

impl Watch {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            if let Some(batch) = self.pending.pop_front() {
                return Ok(batch);
            }
            if !self.more {
                // The following call reports a stopped store.
                let _ = tokio::time::timeout(POLL_INTERVAL, self.committed.changed()).await;
            }
            self.committed.mark_unchanged();
            let (keys, from) = (self.keys.clone(), self.next);
            let page: Page = self
                .handle
                .call(move |state| state.model.page(&keys, from, PAGE_SIZE))
                .await?;
            self.next = page.next;
            self.more = page.more;
            self.pending.extend(page.batches);
        }
    }
}
