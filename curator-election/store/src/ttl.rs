//! The TTL of a lease as etcd counts it: whole seconds, with a maximum.

use std::time::Duration;

#[cfg(any(test, feature = "etcd", feature = "embedded", feature = "testing"))]
use crate::StoreError;

/// The maximum TTL of a lease: etcd refuses a longer one.
pub const MAX_LEASE_TTL: Duration = Duration::from_secs(9_000_000_000);

/// The TTL rounded up to whole seconds.
///
/// # Errors
/// If it is over [`MAX_LEASE_TTL`].
#[cfg(any(test, feature = "etcd", feature = "embedded", feature = "testing"))]
pub(crate) fn whole_seconds(ttl: Duration) -> Result<Duration, StoreError> {
    if ttl > MAX_LEASE_TTL {
        return Err(StoreError::refused(format!(
            "a TTL of {} s is over the maximum of {} s: request a shorter one",
            ttl.as_secs(),
            MAX_LEASE_TTL.as_secs()
        )));
    }
    Ok(Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_is_rounded_up_to_seconds() {
        for (ms, whole) in [(0, 0), (1, 1), (1_000, 1), (1_001, 2), (10_000, 10)] {
            assert_eq!(
                whole_seconds(Duration::from_millis(ms)).unwrap(),
                Duration::from_secs(whole)
            );
        }
    }

    #[test]
    fn ttl_over_the_maximum_is_refused() {
        assert_eq!(whole_seconds(MAX_LEASE_TTL).unwrap(), MAX_LEASE_TTL);
        for ttl in [MAX_LEASE_TTL + Duration::from_nanos(1), Duration::MAX] {
            let error = whole_seconds(ttl).unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        }
    }
}
