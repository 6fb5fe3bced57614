//! Watches: told that something was committed, each asks for the changes that it has not seen, a page at a time.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;

use super::handle::Handle;
use super::worker::BATCH;
use crate::memory::model::Page;
use crate::{Keys, Revision, StoreError, WatchBatch, WatchStream};

/// How many revisions with changes a watch takes at once: more than go into a commit, or it would fall behind for good.
const PAGE: usize = 2 * BATCH;
/// How often a watch asks when it hears nothing, so that it notices a store that hangs.
const LOOK: Duration = Duration::from_secs(1);

struct Watch {
    handle: Handle,
    keys: Keys,
    /// The first revision not looked at.
    next: Revision,
    more: bool,
    pending: VecDeque<WatchBatch>,
    committed: watch::Receiver<Revision>,
    over: bool,
}

/// Opens a watch, once the store has said from where.
pub(super) async fn open(handle: Handle, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
    // Before the revision is asked for, so that no commit falls between.
    let committed = handle.committed();
    let next = {
        let keys = keys.clone();
        handle.call(move |ledger| {
            let model = &ledger.model;
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
                // A sender that is gone is told by the call that follows.
                let _ = tokio::time::timeout(LOOK, self.committed.changed()).await;
            }
            self.committed.mark_unchanged();
            let (keys, from) = (self.keys.clone(), self.next);
            let page: Page = self
                .handle
                .call(move |ledger| ledger.model.page(&keys, from, PAGE))
                .await?;
            self.next = page.next;
            self.more = page.more;
            self.pending.extend(page.batches);
        }
    }
}
