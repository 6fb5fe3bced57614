//! What an election can be configured with, and the error that refuses the rest.

use std::time::Duration;

use crate::challenge::MIN_FAILOVER_LIMIT;
use crate::clock::{SharedClock, is_left_behind_by_paused_time};
use crate::store::MAX_LEASE_TTL;

/// The minimum TTL: leases count whole seconds.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// The maximum TTL: etcd refuses a longer one.
pub const MAX_TTL: Duration = MAX_LEASE_TTL;
/// The minimum refresh interval. A shorter one is load without a use: the watches tell each change.
pub const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// The maximum length of the name of an election, in bytes.
pub const MAX_NAME_LENGTH: usize = 128;

/// An invalid configuration of an election.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElectorError {
    /// The TTL is too short, or longer than the store takes.
    #[error("TTL {ttl:?} is not possible: set one from {MIN_TTL:?} to {MAX_TTL:?}")]
    Ttl {
        /// The TTL.
        ttl: Duration,
    },
    /// The margin is too large for the TTL.
    #[error("margin {margin:?} too large for TTL {ttl:?}: it must be less than half of the TTL")]
    Margin {
        /// The margin.
        margin: Duration,
        /// The effective TTL.
        ttl: Duration,
    },
    /// The failover limit is too small.
    #[error("failover limit {limit:?} too small: set at least {MIN_FAILOVER_LIMIT:?}, or none")]
    FailoverLimit {
        /// The failover limit.
        limit: Duration,
    },
    /// The refresh interval is too short, or too long for the TTL.
    #[error(
        "refresh interval {refresh:?} does not fit TTL {ttl:?}: set one from {MIN_REFRESH_INTERVAL:?} to half of the \
         TTL, such as a third of it"
    )]
    Refresh {
        /// The refresh interval.
        refresh: Duration,
        /// The effective TTL.
        ttl: Duration,
    },
    /// The back-off has no wait, or its first wait is longer than its last.
    #[error("back-off from {initial:?} to {max:?} is not possible: set a first wait above zero and up to the last one")]
    Backoff {
        /// The first wait.
        initial: Duration,
        /// The maximum wait.
        max: Duration,
    },
    /// The key prefix is empty, or has characters that cannot be in it.
    #[error("key prefix {prefix:?} is not possible: set one such as /scheduler/leader, without control characters")]
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// The name of the election is empty, too long, or has characters that cannot be in it.
    #[error("election name {name:?} is not possible: use 1 to {MAX_NAME_LENGTH} letters, digits and . _ - / :")]
    Name {
        /// The name.
        name: String,
    },
    /// The time of the runtime is paused, and the clock of the election counts on.
    #[error(
        "the runtime's time is paused, but the clock of the election counts on, so no deadline would hold: set the \
         clock to TokioClock (feature mock or testing) in this test"
    )]
    PausedTime,
}

pub(crate) fn check_ttl(ttl: Duration) -> Result<(), ElectorError> {
    if (MIN_TTL..=MAX_TTL).contains(&ttl) {
        Ok(())
    } else {
        Err(ElectorError::Ttl { ttl })
    }
}

pub(crate) fn check_margin(margin: Option<Duration>, ttl: Duration) -> Result<(), ElectorError> {
    match margin {
        Some(margin) if margin >= ttl / 2 => Err(ElectorError::Margin { margin, ttl }),
        _ => Ok(()),
    }
}

pub(crate) fn check_refresh(refresh: Duration, ttl: Duration) -> Result<(), ElectorError> {
    if (MIN_REFRESH_INTERVAL..=ttl / 2).contains(&refresh) {
        Ok(())
    } else {
        Err(ElectorError::Refresh { refresh, ttl })
    }
}

pub(crate) fn check_backoff(initial: Duration, max: Duration) -> Result<(), ElectorError> {
    if initial.is_zero() || initial > max {
        Err(ElectorError::Backoff { initial, max })
    } else {
        Ok(())
    }
}

pub(crate) fn check_prefix(prefix: &str) -> Result<(), ElectorError> {
    if prefix.trim_matches('/').is_empty() || prefix.chars().any(char::is_control) {
        Err(ElectorError::Prefix {
            prefix: prefix.to_owned(),
        })
    } else {
        Ok(())
    }
}

pub(crate) fn check_name(name: Option<&str>) -> Result<(), ElectorError> {
    let Some(name) = name else { return Ok(()) };
    let valid = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.chars().all(valid) {
        Err(ElectorError::Name { name: name.to_owned() })
    } else {
        Ok(())
    }
}

pub(crate) fn check_clock(clock: &SharedClock) -> Result<(), ElectorError> {
    if is_left_behind_by_paused_time(&**clock) {
        Err(ElectorError::PausedTime)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn ttl_is_refused_outside_of_what_leases_can_be() {
        for ttl in [SECOND, SECOND * 10, MAX_TTL] {
            assert_eq!(check_ttl(ttl), Ok(()));
        }
        for ttl in [
            Duration::ZERO,
            Duration::from_millis(999),
            MAX_TTL + SECOND,
            Duration::MAX,
        ] {
            assert_eq!(check_ttl(ttl), Err(ElectorError::Ttl { ttl }));
        }
    }

    #[test]
    fn refresh_is_refused_outside_of_what_fits_the_ttl() {
        for refresh in [MIN_REFRESH_INTERVAL, SECOND, SECOND * 3] {
            assert_eq!(check_refresh(refresh, SECOND * 6), Ok(()));
        }
        for refresh in [
            Duration::ZERO,
            Duration::from_millis(99),
            SECOND * 4,
            SECOND * 7,
            Duration::MAX,
        ] {
            let error = check_refresh(refresh, SECOND * 6).unwrap_err();
            assert!(error.to_string().contains("a third"), "{error}");
        }
    }

    #[test]
    fn backoff_margin_prefix_and_name_are_checked() {
        assert!(check_backoff(SECOND, SECOND).is_ok());
        assert!(check_backoff(Duration::ZERO, SECOND).is_err() && check_backoff(SECOND * 2, SECOND).is_err());
        assert!(check_margin(None, SECOND).is_ok() && check_margin(Some(SECOND / 3), SECOND).is_ok());
        assert!(check_margin(Some(SECOND / 2), SECOND).is_err());
        for prefix in ["/leader", "leader", "/a/b", "/leader/"] {
            assert_eq!(check_prefix(prefix), Ok(()), "{prefix:?}");
        }
        for prefix in ["", "/", "//", "/lea\0der", "/leader\n"] {
            assert!(check_prefix(prefix).is_err(), "{prefix:?}");
        }
        for name in [None, Some("jobs"), Some("/jobs/leader-1_a.b:c")] {
            assert_eq!(check_name(name), Ok(()));
        }
        let long = "a".repeat(MAX_NAME_LENGTH + 1);
        for name in ["", "two words", "\u{e4}", long.as_str()] {
            assert!(check_name(Some(name)).is_err(), "{name:?}");
        }
    }
}
