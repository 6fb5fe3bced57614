//! The deadline of a lease.
//!
//! The server starts a lease's TTL when it handles the renewal: after the renewal was *sent* and before its reply is
//! *received*. Counting from the send time is therefore always safe, however long the reply took or was queued;
//! counting from the receipt is not. The margin covers clock drift and the time that it takes to stop.

use std::time::Duration;

use crate::clock::Instant;

/// The default TTL, used for a configured TTL of less than a second.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// The requested TTL: `configured` rounded down to seconds, or [`DEFAULT_TTL`] if that is zero.
#[must_use]
pub const fn effective_ttl(configured: Duration) -> Duration {
    match configured.as_secs() {
        0 => DEFAULT_TTL,
        seconds => Duration::from_secs(seconds),
    }
}

/// The default margin: a tenth of the granted TTL, at least 100 ms.
#[must_use]
pub fn default_margin(granted: Duration) -> Duration {
    (granted / 10).max(Duration::from_millis(100))
}

/// The deadline of a lease that was renewed by a request sent at `sent_at`.
#[must_use]
pub fn deadline(sent_at: Instant, granted: Duration, margin: Duration) -> Instant {
    sent_at + granted.saturating_sub(margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls_are_whole_seconds_and_zero_is_ten() {
        for (configured_ms, effective_s) in [(0, 10), (999, 10), (1_000, 1), (1_999, 1), (60_000, 60)] {
            assert_eq!(
                effective_ttl(Duration::from_millis(configured_ms)),
                Duration::from_secs(effective_s)
            );
        }
    }

    #[test]
    fn the_deadline_counts_from_the_sending() {
        let sent = Instant::from_origin(Duration::from_secs(100));
        let until = deadline(sent, Duration::from_secs(5), Duration::from_millis(500));
        assert_eq!(until.since_origin(), Duration::from_millis(104_500));
        // A margin of more than the TTL gives a deadline at the send time, not before it.
        assert_eq!(deadline(sent, Duration::from_secs(1), Duration::from_secs(2)), sent);
    }
}
