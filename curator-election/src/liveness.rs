//! Signs of life of whatever an elector leads for.
//!
//! That a lease is renewed proves no more than that the elector runs. What it leads for may hang all the same: threads that
//! wait for each other, reads that never come back. An elector with a liveness leads, and stands for election, only while the
//! other side has shown within a stated time that it can do its work.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use curator_election::clock::BootClock;
//! use curator_election::{ElectorConfig, LivenessProbe};
//!
//! let liveness = LivenessProbe::new(Arc::new(BootClock), Duration::from_secs(10));
//! let config = ElectorConfig { liveness: Some(liveness.clone()), ..ElectorConfig::default() };
//! // Each time that a piece of the real work has been done:
//! liveness.report_alive();
//! # let _ = config;
//! ```

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Instant, SharedClock};

/// When there was a sign of life last, and how long without one is too long. Clones are the same liveness.
#[derive(Clone)]
pub struct LivenessProbe {
    clock: SharedClock,
    limit: Duration,
    last: watch::Sender<Instant>,
}

impl std::fmt::Debug for LivenessProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LivenessProbe")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl LivenessProbe {
    /// A liveness that has just beaten. It must run on the elector's clock, and `limit` is best not shorter than the TTL: whoever is
    /// stopped for that long has lost the lease in any case.
    #[must_use]
    pub fn new(clock: SharedClock, limit: Duration) -> Self {
        let (last, _) = watch::channel(clock.now());
        Self { clock, limit, last }
    }

    /// Here is a sign of life.
    pub fn report_alive(&self) {
        self.last.send_replace(self.clock.now());
    }

    /// How long without a sign of life is too long.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether there has been none for too long.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.clock.now() >= self.stuck_at()
    }

    fn stuck_at(&self) -> Instant {
        *self.last.borrow() + self.limit
    }

    /// Completes when [`is_stuck`](Self::is_stuck) is not `was` any more. Cancellation safe.
    pub(crate) async fn changed(&self, was: bool) {
        let mut beats = self.last.subscribe();
        while self.is_stuck() == was {
            let last = *beats.borrow_and_update();
            if was {
                // This has a sender of its own, so there is always one.
                let _ = beats.changed().await;
            } else {
                self.clock.sleep_until(last + self.limit).await;
            }
        }
    }
}
