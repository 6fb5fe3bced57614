//! A fence that concurrent reads share.
//!
//! A read must see every write that was acknowledged before it began (S3). Within a term, only this leader writes, and
//! it applies its writes to its view before it acknowledges them. So the view is current for a read if the term still
//! held at some moment after the read began. A fence proves that: it is a read of the lock key that checks the term's
//! guard.
//!
//! One fence serves many reads: each read that began before the fence was *sent*. The store executes the fence after
//! that, and finds the lock key only if no other leader was elected until then. A read that begins while a fence is
//! under way cannot use it: the store may have executed the fence before the read began, and another leader may have
//! acknowledged a write in between. Such a read waits for the next fence, which is sent when the current one returns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::failpoint;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tracing::{Instrument, debug_span};

use curator_election::fence::{Fenced, FencedError, TRACED};

type Fence = Shared<BoxFuture<'static, Result<(), FencedError>>>;

/// Lets reads pass once a fence has proven that the term held after they began.
pub(crate) struct Barrier {
    fenced: Fenced,
    fences: Mutex<Fences>,
}

#[derive(Default)]
struct Fences {
    /// Not sent yet: new reads may join it.
    gathering: Option<Fence>,
    /// Sent, or about to be sent.
    under_way: Option<Fence>,
}

impl Barrier {
    pub(crate) fn new(fenced: Fenced) -> Self {
        Self {
            fenced,
            fences: Mutex::default(),
        }
    }

    /// Waits for a fence that is sent after this call. Cancellation safe: the remaining waiters drive a shared fence.
    pub(crate) async fn pass(self: &Arc<Self>) -> Result<(), FencedError> {
        let fence = self.join();
        // The fence itself is in the trace of the waiter that drives it.
        fence.instrument(debug_span!(target: TRACED, "read barrier")).await
    }

    fn join(self: &Arc<Self>) -> Fence {
        let mut fences = self.fences();
        if let Some(gathering) = &fences.gathering {
            return gathering.clone();
        }
        let before = fences.under_way.clone();
        if let Some(before) = &before
            && before.peek().is_none()
            && failpoint::on(failpoint::JOINS_FENCE_UNDER_WAY)
        {
            return before.clone();
        }
        let this = Arc::clone(self);
        let fence = async move {
            if let Some(before) = before {
                // Only its end matters. If all its waiters were dropped, this call drives it.
                let _ = before.await;
            }
            {
                // No read can join from here on.
                let mut fences = this.fences();
                fences.under_way = fences.gathering.take();
            }
            this.fenced.fence().await.map(drop)
        };
        let fence = fence.boxed().shared();
        fences.gathering = Some(fence.clone());
        fence
    }

    fn fences(&self) -> MutexGuard<'_, Fences> {
        // The lock cannot be poisoned half-way: its holders do not panic.
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
