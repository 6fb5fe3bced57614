//! How long to wait after a failure: doubling, bounded, with jitter.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Waits that double from `first` up to `longest`; each is drawn between half of it and all of it, so that candidates that
/// failed together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    rng: StdRng,
}

impl Backoff {
    /// A backoff that has seen no failure yet; equal seeds draw equal jitter.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self {
            first,
            longest,
            failures: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Counts a failure and says how long to wait.
    pub fn failed(&mut self) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.longest).mul_f64(self.rng.random_range(0.5..=1.0))
    }

    /// Forgets the failures.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound_within_the_jitter() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 1);
        for full_ms in [100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let full = Duration::from_millis(full_ms);
            let wait = backoff.failed();
            assert!(full / 2 <= wait && wait <= full, "{wait:?} for {full:?}");
        }
        for _ in 0..100 {
            assert!(backoff.failed() <= Duration::from_secs(2));
        }
        backoff.succeeded();
        assert!(backoff.failed() <= Duration::from_millis(100));
    }

    #[test]
    fn two_candidates_do_not_wait_alike() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), seed);
            (0..8).map(|_| backoff.failed()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
