//! Signs of life of whatever an elector leads for.
//!
//! That a lease is renewed proves no more than that the elector runs. What it leads for may hang all the same: threads that
//! wait for each other, reads that never come back. An elector with a pulse leads, and stands for election, only while the
//! other side has shown within a stated time that it can do its work.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use curator_election::clock::BootClock;
//! use curator_election::{ElectorConfig, Pulse};
//!
//! let pulse = Pulse::new(Arc::new(BootClock), Duration::from_secs(10));
//! let config = ElectorConfig { pulse: Some(pulse.clone()), ..ElectorConfig::default() };
//! // Each time that a piece of the real work has been done:
//! pulse.beat();
//! # let _ = config;
//! ```

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Instant, SharedClock};

/// When there was a sign of life last, and how long without one is too long. Clones are the same pulse.
#[derive(Clone)]
pub struct Pulse {
    clock: SharedClock,
    limit: Duration,
    last: watch::Sender<Instant>,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Pulse {
    /// A pulse that has just beaten. It must run on the elector's clock, and `limit` is best not shorter than the TTL: whoever is
    /// stopped for that long has lost the lease in any case.
    #[must_use]
    pub fn new(clock: SharedClock, limit: Duration) -> Self {
        let (last, _) = watch::channel(clock.now());
        Self { clock, limit, last }
    }

    /// Here is a sign of life.
    pub fn beat(&self) {
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
    pub(crate) async fn turns(&self, was: bool) {
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
