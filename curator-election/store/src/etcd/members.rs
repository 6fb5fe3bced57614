//! Which member to ask: the last one that answered, and one that failed only when there is no other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Instant;

/// For how long a member that failed is put behind the others.
const SUSPECT: Duration = Duration::from_secs(5);

/// What is known of the members' health. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Members {
    state: Arc<Mutex<Vec<Health>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    answered_at: Option<Instant>,
    failed_at: Option<Instant>,
    progress: Progress,
}

/// What is known of how a member answers a watch that asks for its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing yet, after so many requests.
    Unknown(u32),
    /// It has answered.
    Told,
    /// It has not, and answered everything else: etcd's own gRPC proxy is such a one.
    NeverTold,
}

impl Default for Progress {
    fn default() -> Self {
        Self::Unknown(0)
    }
}

/// So many requests for progress without an answer are no accident: a busy member is late now and then.
const MAX_MISSED: u32 = 4;

impl Health {
    /// Whether its last failure is recent, and not followed by an answer.
    fn suspect(self, now: Instant) -> bool {
        self.failed_at
            .is_some_and(|failed| now < failed + SUSPECT && self.answered_at.is_none_or(|answered| answered <= failed))
    }
}

impl Members {
    pub(super) fn new(count: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(vec![Health::default(); count])),
        }
    }

    pub(super) fn answered(&self, member: usize, now: Instant) {
        self.state()[member].answered_at = Some(now);
    }

    pub(super) fn failed(&self, member: usize, now: Instant) {
        self.state()[member].failed_at = Some(now);
    }

    /// Whether it tells watches of their progress.
    pub(super) fn progress(&self, member: usize) -> Progress {
        self.state()[member].progress
    }

    /// It has told a watch of its progress.
    pub(super) fn tells_progress(&self, member: usize) {
        self.state()[member].progress = Progress::Told;
    }

    /// It answers, and has told a watch nothing when asked for progress; whether it is now taken for one that never does. One that
    /// has told once is not taken for such a one any more.
    pub(super) fn tells_no_progress(&self, member: usize) -> bool {
        let known = &mut self.state()[member].progress;
        match *known {
            Progress::Unknown(missed) if missed + 1 >= MAX_MISSED => {
                *known = Progress::NeverTold;
                true
            }
            Progress::Unknown(missed) => {
                *known = Progress::Unknown(missed + 1);
                false
            }
            Progress::Told | Progress::NeverTold => false,
        }
    }

    /// All members: as they were configured, but suspects last, the one that failed longest ago first.
    pub(super) fn order(&self, now: Instant) -> Vec<usize> {
        let state = self.state();
        let mut order: Vec<usize> = (0..state.len()).collect();
        order.sort_by_key(|member| {
            let health = state[*member];
            // Nothing, which goes first, for one that is no suspect.
            health.suspect(now).then_some(health.failed_at)
        });
        order
    }

    /// The first member in order, if its last answer is younger than `within`.
    pub(super) fn fresh(&self, now: Instant, within: Duration) -> Option<usize> {
        let order = self.order(now);
        let state = self.state();
        order.into_iter().find(|member| {
            let health = state[*member];
            !health.suspect(now) && health.answered_at.is_some_and(|answered| now < answered + within)
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Vec<Health>> {
        // Nothing that holds the lock can panic half-way.
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
            assert!(!members.tells_no_progress(0));
        }
        // It answers after all, and from then on nothing makes it one that never does.
        members.tells_progress(0);
        assert!((0..2 * MAX_MISSED).all(|_| !members.tells_no_progress(0)));
        assert_eq!(members.progress(0), Progress::Told);
        // One that never does is told of once.
        let told: Vec<_> = (0..2 * MAX_MISSED).map(|_| members.tells_no_progress(1)).collect();
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
        assert_eq!(members.progress(1), Progress::NeverTold);
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
