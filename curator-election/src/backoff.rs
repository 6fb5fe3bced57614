//! Exponential backoff with a maximum and jitter.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Waits that double from `initial` up to `max`. Each is drawn between half and all of that, so that candidates that
/// failed together do not retry together.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
    rng: StdRng,
}

impl Backoff {
    /// A backoff without failures. Equal seeds draw equal jitter.
    #[must_use]
    pub fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        Self {
            initial,
            max,
            failures: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Counts a failure and returns how long to wait.
    pub fn failed(&mut self) -> Duration {
        let doubled = self
            .initial
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.max).mul_f64(self.rng.random_range(0.5..=1.0))
    }

    /// Resets the failures.
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
