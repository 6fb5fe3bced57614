//! A fence that concurrent reads share.
//!
//! A read must see every write that was acknowledged before it began (S3). Within a term only this leader writes, and it
//! takes what it has written into its view before it acknowledges; so the view is good enough for a read if the term still
//! held at some moment after the read began. That is what a fence proves, a transaction under the term's guard.
//!
//! One fence can prove it for many: for each read that began before the fence was *sent*. The store carries it out after
//! that, and finds the lock key only if no other leader has been elected, and so has written, until then. A read that comes
//! while a fence is under way may not use it, because the store may have carried it out before the read began, and another
//! leader may have acknowledged a write in between. It waits for the next one, which is sent once the one before is back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::failpoint;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tracing::{Instrument, debug_span};

use crate::state::fenced::{Fenced, FencedError, TRACED};

type Fence = Shared<BoxFuture<'static, Result<(), FencedError>>>;

/// Lets reads through once a fence has proven that the term held after they began.
pub(crate) struct Barrier {
    fenced: Fenced,
    fences: Mutex<Fences>,
}

#[derive(Default)]
struct Fences {
    /// Not sent yet: whoever comes now may use it.
    gathering: Option<Fence>,
    /// Sent, or about to be.
    under_way: Option<Fence>,
}

impl Barrier {
    pub(crate) fn new(fenced: Fenced) -> Self {
        Self {
            fenced,
            fences: Mutex::default(),
        }
    }

    /// Waits for a fence that is sent after this call. Cancellation safe: the others that share the fence carry it on.
    pub(crate) async fn pass(self: &Arc<Self>) -> Result<(), FencedError> {
        let fence = self.join();
        // The fence itself is in the trace of whoever carries it on.
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
                // Only its end matters. If all who waited for it are gone, it is carried on from here.
                let _ = before.await;
            }
            {
                // From here on nobody joins.
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
        // Nothing that holds the lock can panic half-way.
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
