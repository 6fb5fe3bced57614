//! The liveness probe of the service that an elector leads for.
//!
//! A renewed lease proves only that the elector runs. The service may hang nevertheless: deadlocked threads, reads that
//! never return. An elector with a liveness probe campaigns and leads only while the service reports within a time
//! limit that it can do its work.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use curator_election::clock::BootClock;
//! use curator_election::{ElectorConfig, LivenessProbe};
//!
//! let liveness = LivenessProbe::new(Arc::new(BootClock), Duration::from_secs(10));
//! let config = ElectorConfig { liveness: Some(liveness.clone()), ..ElectorConfig::default() };
//! // Each time that the service has done a piece of real work:
//! liveness.report_alive();
//! # let _ = config;
//! ```

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Instant, SharedClock};

/// The time of the last liveness report, and the limit without one. Clones share the state.
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
    /// A probe that was just reported alive. It must use the elector's clock. `limit` should not be shorter than the
    /// TTL: a process that is stopped for that long loses its lease anyway.
    #[must_use]
    pub fn new(clock: SharedClock, limit: Duration) -> Self {
        let (last, _) = watch::channel(clock.now());
        Self { clock, limit, last }
    }

    /// Reports that the service is alive.
    pub fn report_alive(&self) {
        self.last.send_replace(self.clock.now());
    }

    /// The maximum time without a report.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether the last report is older than the limit.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.clock.now() >= self.stuck_at()
    }

    fn stuck_at(&self) -> Instant {
        *self.last.borrow() + self.limit
    }

    /// Completes when [`is_stuck`](Self::is_stuck) differs from `was`. Cancellation safe.
    pub(crate) async fn changed(&self, was: bool) {
        let mut reports = self.last.subscribe();
        while self.is_stuck() == was {
            let last = *reports.borrow_and_update();
            if was {
                // `self` holds a sender, so this cannot fail.
                let _ = reports.changed().await;
            } else {
                self.clock.sleep_until(last + self.limit).await;
            }
        }
    }
}
