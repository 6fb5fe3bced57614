//! The clock for safety decisions.
//!
//! A lease expires on the server while this host is suspended, so the clock must count through suspend. Linux has
//! `CLOCK_BOOTTIME` for that (`clock_gettime(2)`); on Apple systems `CLOCK_MONOTONIC` does so already.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// A point on a [`Clock`], as the time since that clock's origin. Points of different clocks must not be mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The point that lies `since_origin` after the clock's origin.
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time from the clock's origin to this point.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this point; zero if `earlier` lies after it.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }
}

/// A clock that never goes back and, in production, counts while the host is suspended.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Instant;

    /// Completes once the clock has reached `deadline`. Cancellation safe.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the host, which counts through suspend.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

/// The timers of the runtime stop while the host is suspended, so a sleep checks the clock this often.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK_ID: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK_ID: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

impl Clock for BootClock {
    fn now(&self) -> Instant {
        let time = rustix::time::clock_gettime(CLOCK_ID);
        // Neither part is negative on a clock that counts from boot.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Instant(Duration::new(seconds, nanos))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let clock = *self;
        Box::pin(async move {
            loop {
                let left = deadline.saturating_since(clock.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(CHECK_INTERVAL)).await;
            }
        })
    }
}

/// Whether the runtime's time is paused, as in a test with `start_paused`, while this clock counts on. Timers of the
/// runtime then run ahead of the clock, so deadlines by the clock mean nothing.
#[must_use]
pub fn is_left_behind_by_paused_time(clock: &dyn Clock) -> bool {
    // Without `test-util` tokio's clock is the standard one, which cannot be paused.
    let runtime = tokio::time::Instant::now();
    let real = standard_now();
    while standard_now() == real {
        std::hint::spin_loop();
    }
    if tokio::time::Instant::now() != runtime {
        return false;
    }
    let (began, counted) = (BootClock.now(), clock.now());
    while BootClock.now().saturating_since(began) < TICK {
        std::hint::spin_loop();
    }
    clock.now() != counted
}

/// Longer than the resolution of any clock of a host.
const TICK: Duration = Duration::from_millis(2);

#[allow(
    clippy::disallowed_methods,
    reason = "the clock that tokio uses while it is not paused"
)]
fn standard_now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Tokio's clock, which a test can pause and step; optionally running faster or slower than it by a fixed rate.
#[cfg(any(test, feature = "testing", feature = "test-clock"))]
#[derive(Clone, Debug)]
pub struct TokioClock {
    origin: tokio::time::Instant,
    /// How many parts per million this clock is ahead of tokio's.
    drift_ppm: i64,
}

#[cfg(any(test, feature = "testing", feature = "test-clock"))]
impl TokioClock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn new() -> Self {
        Self::with_drift_ppm(0)
    }

    /// A clock whose origin is now and which gains `drift_ppm` microseconds in each second (loses, if negative).
    #[must_use]
    pub fn with_drift_ppm(drift_ppm: i64) -> Self {
        Self {
            origin: tokio::time::Instant::now(),
            drift_ppm,
        }
    }
}

#[cfg(any(test, feature = "testing", feature = "test-clock"))]
impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(any(test, feature = "testing", feature = "test-clock"))]
impl Clock for TokioClock {
    fn now(&self) -> Instant {
        let nanos = i128::try_from(self.origin.elapsed().as_nanos()).unwrap_or(i128::MAX);
        let gained = nanos * i128::from(self.drift_ppm) / 1_000_000;
        Instant(Duration::from_nanos(u64::try_from(nanos + gained).unwrap_or(u64::MAX)))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            loop {
                let left = deadline.saturating_since(clock.now());
                if left.is_zero() {
                    return;
                }
                // Tokio's timers have a resolution of a millisecond; a shorter sleep would not move a paused clock.
                tokio::time::sleep(left.max(Duration::from_millis(1))).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_moves_and_counts_from_boot() {
        let before = BootClock.now();
        let mut after = BootClock.now();
        while after == before {
            after = BootClock.now();
        }
        assert!(after > before);
        // Boot time is never behind the monotonic clock, which lacks the time in suspend.
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        assert!(BootClock.now().since_origin().as_secs() >= u64::try_from(monotonic.tv_sec).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn paused_time_leaves_the_boot_clock_behind_and_not_that_of_tokio() {
        assert!(is_left_behind_by_paused_time(&BootClock));
        assert!(!is_left_behind_by_paused_time(&TokioClock::new()));
        tokio::time::resume();
        assert!(!is_left_behind_by_paused_time(&BootClock));
    }

    #[test]
    fn no_time_is_paused_outside_a_runtime() {
        assert!(!is_left_behind_by_paused_time(&BootClock));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drifting_clock_gains_what_it_says() {
        let clock = TokioClock::with_drift_ppm(1_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(clock.now().since_origin(), Duration::from_millis(10_010));
        clock.sleep_until(clock.now() + Duration::from_secs(1)).await;
        assert!(clock.now().since_origin() >= Duration::from_millis(11_010));
    }
}
