//! The failover limit L, and the durations that follow from it.

use std::time::Duration;

use crate::failpoint;

/// The default failover limit.
pub const DEFAULT_FAILOVER_LIMIT: Duration = Duration::from_secs(1);
/// The minimum failover limit. Below it the limit would mostly measure the delay of etcd.
pub const MIN_FAILOVER_LIMIT: Duration = Duration::from_millis(500);
/// The minimum margin.
const MIN_MARGIN: Duration = Duration::from_millis(100);
/// The minimum time for which a term may be suspended before it ends: longer than an outage of etcd that must not
/// change the leader (5 s).
const MIN_SUSPENSION: Duration = Duration::from_secs(10);

/// The failover limit of one candidate. It is constant while the candidate is queued and during its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(Duration);

impl Limit {
    /// The limit `limit`, as configured or as a challenge key states it.
    pub(crate) const fn new(limit: Duration) -> Self {
        Self(limit)
    }

    pub(crate) const fn get(self) -> Duration {
        self.0
    }

    /// The margin m: it covers clocks whose rates differ by a tenth each.
    fn margin(self) -> Duration {
        if failpoint::on(failpoint::NO_CHALLENGE_MARGIN) {
            return Duration::ZERO;
        }
        (self.0 / 10).max(MIN_MARGIN)
    }

    /// How long a confirmation is valid, from its sending on.
    pub(crate) fn validity(self) -> Duration {
        self.0.saturating_sub(self.margin())
    }

    /// How long a challenger waits, from the receipt of its acknowledgement on.
    pub(crate) fn wait(self) -> Duration {
        self.0 + self.margin()
    }

    /// How often the leader confirms, and a challenger polls.
    pub(crate) fn poll_interval(self) -> Duration {
        self.0 / 4
    }

    /// The time between two answered polls from which on it does not count.
    pub(crate) fn max_poll_gap(self) -> Duration {
        self.poll_interval().mul_f64(1.5)
    }

    /// How long a term may be suspended before it ends.
    pub(crate) fn max_suspension(self) -> Duration {
        self.0.saturating_mul(4).max(MIN_SUSPENSION)
    }

    /// How often the lease is renewed, so that the remaining TTL shows within a second or L that the holder is silent.
    pub(crate) fn renew_interval(self, ttl: Duration) -> Duration {
        (self.0 / 2).min(ttl / 3)
    }
}

/// The limit in effect: the configured one, at most half of the TTL; `None` if it is less than [`MIN_FAILOVER_LIMIT`].
pub(crate) fn effective_limit(configured: Duration, ttl: Duration) -> Option<Limit> {
    let limit = configured.min(ttl / 2);
    (limit >= MIN_FAILOVER_LIMIT).then_some(Limit(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_at_least_half_a_second_and_at_most_half_of_the_ttl() {
        for (configured_ms, ttl_ms, effective_ms) in [
            (1_000, 10_000, Some(1_000)),
            (1_000, 2_000, Some(1_000)),
            (1_000, 1_000, Some(500)),
            (500, 1_000, Some(500)),
            (499, 10_000, None),
            (0, 10_000, None),
        ] {
            let limit = effective_limit(Duration::from_millis(configured_ms), Duration::from_millis(ttl_ms));
            assert_eq!(limit.map(Limit::get), effective_ms.map(Duration::from_millis));
        }
    }

    /// A leader whose clock is slow by a tenth and a challenger whose clock is fast by a tenth.
    #[test]
    fn the_margins_cover_clocks_that_differ_by_a_tenth_each() {
        for limit_ms in [500, 1_000, 2_500, 30_000] {
            let limit = Limit::new(Duration::from_millis(limit_ms));
            let valid = limit.validity().div_f64(0.9);
            let waited = limit.wait().div_f64(1.1);
            assert!(
                valid <= waited,
                "{limit:?}: valid for {valid:?}, deposed after {waited:?}"
            );
        }
    }
}
