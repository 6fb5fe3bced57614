//! The time since the last change of role, and the number of changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use curator_election::ElectionStatus;
use curator_election::clock::Instant;
use curator_election::store::Revision;

use crate::status::LeaderStatus;

/// The history of one instance's role. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct RoleHistory(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    since: Instant,
    transitions: u64,
    last: Kind,
}

/// The parts of a status that make it another role; a changed value of the same leader does not.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Undetermined,
    Follower(Bytes, Revision),
    Leader(Bytes, Revision),
}

/// A snapshot of a [`RoleHistory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) uptime: Duration,
    pub(crate) time_in_role: Duration,
    pub(crate) transitions: u64,
}

impl RoleHistory {
    /// Starts as undetermined.
    pub(crate) fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            began: now,
            since: now,
            transitions: 0,
            last: Kind::Undetermined,
        })))
    }

    /// Records the current status; returns whether the role has changed.
    pub(crate) fn note(&self, status: &LeaderStatus, now: Instant) -> bool {
        let kind = match status {
            ElectionStatus::Undetermined(_) => Kind::Undetermined,
            ElectionStatus::Follower(following) => Kind::Follower(following.key.clone(), following.revision),
            ElectionStatus::Leader(term) => Kind::Leader(term.lock_key().clone(), term.lock_revision()),
        };
        let mut inner = self.lock();
        let changed = inner.last != kind;
        if changed {
            inner.last = kind;
            inner.since = now;
            inner.transitions += 1;
        }
        changed
    }

    pub(crate) fn look(&self, now: Instant) -> Seen {
        let inner = self.lock();
        Seen {
            uptime: now.saturating_since(inner.began),
            time_in_role: now.saturating_since(inner.since),
            transitions: inner.transitions,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The lock cannot be poisoned half-way: its holders do not panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use curator_election::{LeaderInfo, Reason};
    use curator_proto::private::LeaderElectionValue;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn following(revision: i64, transfer_to: &str) -> LeaderStatus {
        ElectionStatus::Follower(LeaderInfo {
            leader: LeaderElectionValue {
                node_id: "node-2".into(),
                transfer_to_key: transfer_to.into(),
                ..Default::default()
            },
            key: "/leader/a".into(),
            revision: Revision(revision),
        })
    }

    #[test]
    fn only_another_role_or_term_is_a_change() {
        let history = RoleHistory::new(at(10));
        assert!(!history.note(&ElectionStatus::Undetermined(Reason::Starting), at(11)));
        assert!(history.note(&following(5, ""), at(12)));
        assert!(!history.note(&following(5, "/leader/b"), at(13)), "the same term");
        assert!(history.note(&following(6, ""), at(14)));
        assert!(history.note(&ElectionStatus::Undetermined(Reason::NoLeader), at(15)));
        assert!(!history.note(&ElectionStatus::Undetermined(Reason::ObservationStale), at(16)));
        let seen = Seen {
            uptime: Duration::from_secs(10),
            time_in_role: Duration::from_secs(5),
            transitions: 3,
        };
        assert_eq!(history.look(at(20)), seen);
    }
}
