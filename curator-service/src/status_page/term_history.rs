//! The most recent terms that an instance observed. Pure; no I/O.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curator_election::ElectionStatus;
use curator_election::clock::Instant;

use crate::status::LeaderStatus;

/// Maximum number of terms kept.
const MAX_TERMS: usize = 50;

/// The observed terms, newest last. Clones share the same history.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermHistory(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    seen: VecDeque<ObservedTerm>,
    /// When the last known leader was lost; `None` if a leader is known or none ever was.
    leaderless: Option<Instant>,
    /// When the known leader stopped responding.
    silent: Option<Instant>,
}

/// A term, as observed by this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedTerm {
    pub(crate) leader: String,
    pub(crate) revision: i64,
    pub(crate) from: Instant,
    /// `None` while the term lasts.
    pub(crate) to: Option<Instant>,
    /// Time without a leader before the term, if it was observed.
    pub(crate) after: Option<Duration>,
}

impl TermHistory {
    /// Records the current status. Returns how long no leader was known, if one is known again.
    pub(crate) fn note(&self, own_id: &str, status: &LeaderStatus, now: Instant) -> Option<Duration> {
        let known = match status {
            ElectionStatus::Leader(term) => Some((own_id, term.lock_revision().0)),
            ElectionStatus::Follower(following) => Some((following.leader.node_id.as_str(), following.revision.0)),
            ElectionStatus::Undetermined(_) => None,
        };
        let mut inner = self.lock();
        let present = inner.seen.back().filter(|seen| seen.to.is_none());
        if present.map(|seen| seen.revision) == known.map(|(_, revision)| revision) {
            return None;
        }
        if let Some(ended) = inner.seen.back_mut().filter(|seen| seen.to.is_none()) {
            ended.to = Some(now);
            // A leader that did not respond does not count as leading, so the gap starts when it stopped.
            inner.leaderless = Some(inner.silent.take().unwrap_or(now));
        }
        let (leader, revision) = known?;
        let after = inner.leaderless.take().map(|since| now.saturating_since(since));
        if inner.seen.len() == MAX_TERMS {
            inner.seen.pop_front();
        }
        inner.seen.push_back(ObservedTerm {
            leader: leader.to_owned(),
            revision,
            from: now,
            to: None,
            after,
        });
        after
    }

    /// Records whether calls reach the known leader. Returns how long they did not, if they do again.
    pub(crate) fn reached(&self, reached: bool, now: Instant) -> Option<Duration> {
        let mut inner = self.lock();
        let known = inner.seen.back().is_some_and(|seen| seen.to.is_none());
        match (known, reached) {
            (true, false) => {
                inner.silent.get_or_insert(now);
                None
            }
            (true, true) => inner.silent.take().map(|since| now.saturating_since(since)),
            (false, _) => {
                inner.silent = None;
                None
            }
        }
    }

    /// Time since the known leader stopped responding; `None` if it responds or no leader is known.
    pub(crate) fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.lock().silent.map(|since| now.saturating_since(since))
    }

    /// All recorded terms, newest first.
    pub(crate) fn newest_first(&self) -> Vec<ObservedTerm> {
        self.lock().seen.iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use curator_election::store::Revision;
    use curator_election::{LeaderInfo, Reason};
    use curator_proto::private::LeaderElectionValue;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn follows(leader: &str, revision: i64) -> LeaderStatus {
        ElectionStatus::Follower(LeaderInfo {
            leader: LeaderElectionValue {
                node_id: leader.into(),
                ..LeaderElectionValue::default()
            },
            key: "/leader/a".into(),
            revision: Revision(revision),
        })
    }

    #[test]
    fn terms_come_and_go_with_the_time_between_them() {
        let terms = TermHistory::default();
        let nobody = ElectionStatus::Undetermined(Reason::NoLeader);
        assert_eq!(terms.note("me", &nobody, at(1)), None);
        assert_eq!(
            terms.note("me", &follows("a", 5), at(2)),
            None,
            "no leader was known before the first"
        );
        assert_eq!(terms.note("me", &follows("a", 5), at(3)), None);
        assert_eq!(terms.note("me", &nobody, at(4)), None);
        assert_eq!(terms.note("me", &nobody, at(5)), None);
        assert_eq!(terms.note("me", &follows("b", 9), at(7)), Some(Duration::from_secs(3)));
        assert_eq!(
            terms.note("me", &follows("a", 11), at(8)),
            Some(Duration::ZERO),
            "at once"
        );
        let seen = terms.newest_first();
        let told: Vec<_> = seen
            .iter()
            .map(|seen| (&*seen.leader, seen.revision, seen.to))
            .collect();
        assert_eq!(told, [("a", 11, None), ("b", 9, Some(at(8))), ("a", 5, Some(at(4)))]);
    }

    /// A dead leader that is known until its lease expires counts as lost from when it stopped responding.
    #[test]
    fn leader_that_is_silent_counts_as_none() {
        let terms = TermHistory::default();
        assert_eq!(terms.reached(false, at(1)), None);
        assert_eq!(terms.silent_for(at(2)), None, "no leader is known");
        terms.note("me", &follows("a", 5), at(2));
        terms.reached(true, at(2));
        terms.reached(false, at(10));
        terms.reached(false, at(12));
        assert_eq!(terms.silent_for(at(15)), Some(Duration::from_secs(5)));
        let nobody = ElectionStatus::Undetermined(Reason::NoLeader);
        terms.note("me", &nobody, at(18));
        assert_eq!(
            terms.note("me", &follows("b", 9), at(19)),
            Some(Duration::from_secs(9)),
            "since it stopped responding"
        );
        assert_eq!(terms.silent_for(at(19)), None);
        // The leader was unreachable for a while and responds again.
        terms.reached(false, at(20));
        assert_eq!(terms.reached(true, at(24)), Some(Duration::from_secs(4)));
        assert_eq!(terms.reached(true, at(25)), None);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let terms = TermHistory::default();
        for revision in 1..200 {
            terms.note("me", &follows("a", revision), at(revision.unsigned_abs()));
        }
        let seen = terms.newest_first();
        assert_eq!((seen.len(), seen[0].revision), (MAX_TERMS, 199));
    }
}
