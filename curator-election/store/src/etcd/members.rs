//! The health of the members: the order in which to use them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Instant;

/// How long a failed member is used only after the others.
const SUSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The minimum wait before an urgent read is sent to a second member.
const MIN_HEDGE: Duration = Duration::from_millis(50);

/// The health of the members. Clones share the state.
#[derive(Clone, Debug)]
pub(super) struct Members {
    state: Arc<Mutex<Vec<Health>>>,
    /// The moving average of the duration of a read, in microseconds; 0 before the first.
    usual: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    answered_at: Option<Instant>,
    failed_at: Option<Instant>,
    progress: Progress,
}

/// How a member answers progress requests of watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Unknown, after this many unanswered requests.
    Unknown(u32),
    /// The member has answered one.
    Reported,
    /// The member has never answered one, but everything else, as etcd's gRPC proxy does.
    NeverReported,
}

impl Default for Progress {
    fn default() -> Self {
        Self::Unknown(0)
    }
}

/// The number of unanswered progress requests after which a member counts as a proxy: a busy member may miss some.
const MAX_MISSED: u32 = 4;

impl Health {
    /// Whether the last failure is recent and not followed by a response.
    fn suspect(self, now: Instant) -> bool {
        self.failed_at.is_some_and(|failed| {
            now < failed + SUSPECT_TIMEOUT && self.answered_at.is_none_or(|answered| answered <= failed)
        })
    }
}

impl Members {
    pub(super) fn new(count: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(vec![Health::default(); count])),
            usual: Arc::default(),
        }
    }

    /// Records the duration of a read that was answered.
    pub(super) fn took(&self, time: Duration) {
        let took = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Of two concurrent updates one may be lost: the value is a hint.
        let usual = match self.usual.load(Ordering::Relaxed) {
            0 => took,
            usual => usual - usual / 8 + took / 8,
        };
        self.usual.store(usual.max(1), Ordering::Relaxed);
    }

    /// How long to wait for the answer to an urgent read before a second member is asked: twice the usual time, at
    /// least [`MIN_HEDGE`], at most `max`.
    pub(super) fn hedge_after(&self, max: Duration) -> Duration {
        let usual = Duration::from_micros(self.usual.load(Ordering::Relaxed));
        usual.saturating_mul(2).max(MIN_HEDGE).min(max)
    }

    pub(super) fn answered(&self, member: usize, now: Instant) {
        self.state()[member].answered_at = Some(now);
    }

    pub(super) fn failed(&self, member: usize, now: Instant) {
        self.state()[member].failed_at = Some(now);
    }

    /// How the member answers progress requests.
    pub(super) fn progress(&self, member: usize) -> Progress {
        self.state()[member].progress
    }

    /// Records an answer to a progress request.
    pub(super) fn reported_progress(&self, member: usize) {
        self.state()[member].progress = Progress::Reported;
    }

    /// Records that a responding member did not answer a progress request. Returns whether it now counts as one that
    /// never does. A member that has answered once never counts as such.
    pub(super) fn missed_progress(&self, member: usize) -> bool {
        let known = &mut self.state()[member].progress;
        match *known {
            Progress::Unknown(missed) if missed + 1 >= MAX_MISSED => {
                *known = Progress::NeverReported;
                true
            }
            Progress::Unknown(missed) => {
                *known = Progress::Unknown(missed + 1);
                false
            }
            Progress::Reported | Progress::NeverReported => false,
        }
    }

    /// All members in the configured order, with failed ones last, the earliest failure first.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let state = self.state();
        let mut order: Vec<usize> = (0..state.len()).collect();
        order.sort_by_key(|member| {
            let health = state[*member];
            // `None` sorts first.
            health.suspect(now).then_some(health.failed_at)
        });
        order
    }

    /// The first healthy member whose last response is younger than `within`.
    pub(super) fn fresh(&self, now: Instant, within: Duration) -> Option<usize> {
        let order = self.order(now);
        let state = self.state();
        order.into_iter().find(|member| {
            let health = state[*member];
            !health.suspect(now) && health.answered_at.is_some_and(|answered| now < answered + within)
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Vec<Health>> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn a_member_that_failed_goes_behind_the_others_for_a_while() {
        let members = Members::new(3);
        assert_eq!(members.order(at(0)), [0, 1, 2]);
        members.failed(0, at(100));
        assert_eq!(members.order(at(200)), [1, 2, 0]);
        members.failed(1, at(300));
        assert_eq!(members.order(at(400)), [2, 0, 1]);
        assert_eq!(members.order(at(5_100)), [0, 2, 1]);
    }

    #[test]
    fn member_that_is_late_now_and_then_is_taken_for_no_proxy() {
        let members = Members::new(2);
        for _ in 1..MAX_MISSED {
            assert!(!members.missed_progress(0));
        }
        // After one answer it never counts as a proxy.
        members.reported_progress(0);
        assert!((0..2 * MAX_MISSED).all(|_| !members.missed_progress(0)));
        assert_eq!(members.progress(0), Progress::Reported);
        // A proxy is reported once.
        let reports: Vec<_> = (0..2 * MAX_MISSED).map(|_| members.missed_progress(1)).collect();
        assert_eq!(reports.iter().filter(|reported| **reported).count(), 1);
        assert_eq!(members.progress(1), Progress::NeverReported);
    }

    #[test]
    fn urgent_reads_are_hedged_after_twice_the_usual_time() {
        let members = Members::new(3);
        let max = Duration::from_millis(150);
        assert_eq!(members.hedge_after(max), MIN_HEDGE);
        (0..100).for_each(|_| members.took(Duration::from_millis(40)));
        let wait = members.hedge_after(max);
        assert!(
            Duration::from_millis(78) <= wait && wait <= Duration::from_millis(80),
            "{wait:?}"
        );
        (0..100).for_each(|_| members.took(Duration::from_secs(1)));
        assert_eq!(members.hedge_after(max), max);
    }

    #[test]
    fn an_answer_clears_it() {
        let members = Members::new(2);
        members.failed(0, at(100));
        members.answered(0, at(200));
        assert_eq!(members.order(at(200)), [0, 1]);
    }

    #[test]
    fn only_a_recent_answer_is_fresh() {
        let members = Members::new(2);
        let within = Duration::from_secs(1);
        assert_eq!(members.fresh(at(0), within), None);
        members.answered(1, at(0));
        assert_eq!(members.fresh(at(999), within), Some(1));
        assert_eq!(members.fresh(at(1_000), within), None);
        members.answered(1, at(2_000));
        members.failed(1, at(2_001));
        assert_eq!(members.fresh(at(2_002), within), None);
    }
}
