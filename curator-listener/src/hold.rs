//! The calls that wait for a leader: a bounded number of them, each for a bounded time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::sabotage::{self, Sabotage};

/// A call whose caller is about to give up is answered so much before, so that it learns the reason.
const MARGIN: Duration = Duration::from_millis(50);

/// Where calls wait.
#[derive(Debug)]
pub(crate) struct Hold {
    waiting: AtomicUsize,
    limit: usize,
}

/// A waiting call. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Seat<'a>(&'a Hold);

impl Hold {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            limit,
        }
    }

    /// Lets a call wait; `None` if as many as may are waiting.
    pub(crate) fn enter(&self) -> Option<Seat<'_>> {
        let seat = Seat(self);
        // Dropping the seat takes back what was added.
        (self.waiting.fetch_add(1, Ordering::Relaxed) < self.limit).then_some(seat)
    }

    /// How many may wait.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until when a call may wait that begins to at `now`: no longer than the cap, and not quite to its own deadline.
pub(crate) fn until(now: Instant, cap: Duration, deadline: Option<Instant>) -> Instant {
    if sabotage::on(Sabotage::HoldsForever) {
        return now + Duration::from_secs(86_400);
    }
    let capped = now + cap;
    let Some(deadline) = deadline else { return capped };
    let left = deadline.saturating_duration_since(now);
    capped.min(deadline - MARGIN.min(left / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_wait() {
        let hold = Hold::new(2);
        let (first, _second) = (hold.enter().expect("room"), hold.enter().expect("room"));
        assert!(hold.enter().is_none());
        assert!(hold.enter().is_none(), "whoever was refused takes no room");
        drop(first);
        assert!(hold.enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_within_its_deadline_and_the_cap() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        assert_eq!(until(now, seconds(6), None), now + seconds(6));
        assert_eq!(until(now, seconds(6), Some(now + seconds(60))), now + seconds(6));
        assert_eq!(
            until(now, seconds(6), Some(now + seconds(2))),
            now + seconds(2) - MARGIN
        );
        let short = Duration::from_millis(100);
        assert_eq!(until(now, seconds(6), Some(now + short)), now + short * 9 / 10);
    }
}
