//! The newest write of a term: after an interruption it shows whether the store still has what the term has written.
//!
//! A restored backup has lost the last writes. Usually its revision is lower than the newest that the term knows, which
//! the next answer shows. But while a leader is stopped, other writes (challenges, campaigns) may carry the restored
//! store past that revision, with the lock key still there: neither the guard nor the revision shows the loss then.
//! A restore takes longer than a failover limit, so it interrupts the term: a term with a limit is suspended, and
//! without a limit the store does not answer accesses of the term for [`MAX_SILENCE`]. The first answer after an
//! interruption counts only if the newest write of the term is in the store's history at its revision.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Instant;
use crate::store::{KeyValue, Keys, Op, OpResult, Range, Revision};

/// The time without an answer after which a term without a failover limit counts as interrupted. An idle leader pays a
/// read for it at the next access.
const MAX_SILENCE: Duration = Duration::from_millis(500);

/// The newest writes of a term, and the interruptions after which they were looked up. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The newest write before the interruptions that are not checked yet.
    known: Option<Write>,
    /// The newest write after them. It alone shows nothing: the store may have lost `known` before it.
    later: Option<Write>,
    /// The number of interruptions up to which the store is known to be the same.
    checked: u64,
    /// When the store last answered, and the number of longer silences before that.
    answered_at: Option<Instant>,
    silences: u64,
}

/// A write to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    key: Bytes,
    pub(super) revision: Revision,
    /// The value that was put; `None` if the key was deleted. In a restored store another write may have the revision.
    put: Option<Bytes>,
}

impl Write {
    /// One of the writes that a transaction has made, if it has made one to a single key.
    pub(super) fn of(ops: &[Op], results: &[OpResult], revision: Revision) -> Option<Self> {
        let written = |key: &Bytes, put: Option<&Bytes>| Self {
            key: key.clone(),
            revision,
            put: put.cloned(),
        };
        ops.iter().zip(results).rev().find_map(|made| match made {
            (Op::Put { key, value, .. }, _) => Some(written(key, Some(value))),
            // Another operation of the transaction may not write the key, so it is absent now.
            (Op::Delete(Keys::One(key)), OpResult::Deleted(count)) if *count > 0 => Some(written(key, None)),
            (Op::Txn(txn), OpResult::Txn { succeeded, results }) => {
                let ops = if *succeeded { &txn.success } else { &txn.failure };
                Self::of(ops, results, revision)
            }
            _ => None,
        })
    }

    /// The read that shows whether the store has this write in its history.
    pub(super) fn look_up(&self) -> Range {
        Range {
            revision: self.revision,
            ..self.current()
        }
    }

    /// The read of the key as it is now, for a history that is compacted.
    pub(super) fn current(&self) -> Range {
        Range {
            limit: 1,
            ..Range::all(Keys::One(self.key.clone()))
        }
    }

    /// Whether the history at the revision of the write, as read by [`look_up`](Self::look_up), contains the write.
    pub(super) fn is_in(&self, found: &[KeyValue]) -> bool {
        match (found.first(), &self.put) {
            (Some(found), Some(put)) => found.mod_revision == self.revision && found.value == put,
            (found, put) => found.is_none() && put.is_none(),
        }
    }

    /// Whether the key as it is now, as read by [`current`](Self::current), may be what came of the write. A key that
    /// was written later shows nothing.
    pub(super) fn may_be_in(&self, current: &[KeyValue]) -> bool {
        match (current.first(), &self.put) {
            (Some(current), Some(put)) if current.mod_revision == self.revision => current.value == put,
            (Some(current), Some(_)) => current.mod_revision > self.revision,
            (Some(current), None) => current.create_revision > self.revision,
            (None, _) => true,
        }
    }
}

impl Witness {
    /// The number of silences of the store so far.
    pub(super) fn silences(&self) -> u64 {
        self.state().silences
    }

    /// The store has answered.
    pub(super) fn answered(&self, now: Instant) {
        let mut state = self.state();
        let before = *state.answered_at.get_or_insert(now);
        if now.saturating_since(before) >= MAX_SILENCE {
            state.silences += 1;
        }
        state.answered_at = Some(before.max(now));
    }

    /// Records a write. `since` is the number of interruptions when it was sent, if there was none since; otherwise it
    /// may have been made after one.
    pub(super) fn wrote(&self, write: Write, since: Option<u64>) {
        let mut state = self.state();
        let place = if since == Some(state.checked) && state.later.is_none() {
            &mut state.known
        } else {
            &mut state.later
        };
        if place.as_ref().is_none_or(|newest| newest.revision < write.revision) {
            *place = Some(write);
        }
    }

    /// The writes to look up after this number of interruptions.
    pub(super) fn to_check(&self, interruptions: u64) -> Vec<Write> {
        let mut state = self.state();
        if state.checked >= interruptions {
            return Vec::new();
        }
        let writes: Vec<_> = state.known.iter().chain(&state.later).cloned().collect();
        if writes.is_empty() {
            state.checked = interruptions;
        }
        writes
    }

    /// The store has these writes, after this number of interruptions.
    pub(super) fn checked(&self, interruptions: u64, writes: &[Write]) {
        let mut state = self.state();
        state.checked = state.checked.max(interruptions);
        if let Some(later) = state.later.take_if(|later| writes.contains(later)) {
            state.known = Some(later);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Txn;

    fn kv(create: i64, changed: i64) -> Vec<KeyValue> {
        vec![KeyValue {
            key: "/a".into(),
            value: "1".into(),
            create_revision: Revision(create),
            mod_revision: Revision(changed),
            version: 1,
            lease: None,
        }]
    }

    fn write(put: bool) -> Write {
        Write {
            key: "/a".into(),
            revision: Revision(7),
            put: put.then(|| "1".into()),
        }
    }

    #[test]
    fn history_has_a_write_or_has_lost_it() {
        assert!(write(true).is_in(&kv(3, 7)));
        assert!(!write(true).is_in(&kv(3, 6)), "the put is lost");
        let another = Write {
            put: Some("2".into()),
            ..write(true)
        };
        assert!(!another.is_in(&kv(3, 7)), "another put has its revision");
        assert!(!another.may_be_in(&kv(3, 7)), "another put has its revision");
        assert!(!write(true).is_in(&[]), "the put is lost, and so is the key");
        assert!(write(false).is_in(&[]));
        assert!(!write(false).is_in(&kv(3, 6)), "the deletion is lost");
    }

    #[test]
    fn compacted_history_is_judged_by_what_came_of_it() {
        assert!(write(true).may_be_in(&kv(3, 7)));
        assert!(write(true).may_be_in(&kv(3, 9)), "changed later");
        assert!(!write(true).may_be_in(&kv(3, 6)), "the put is lost");
        assert!(write(true).may_be_in(&[]), "deleted later");
        assert!(write(false).may_be_in(&[]));
        assert!(write(false).may_be_in(&kv(8, 8)), "created later");
        assert!(!write(false).may_be_in(&kv(3, 9)), "the deletion is lost");
    }

    #[test]
    fn writes_of_a_transaction_are_those_that_were_made() {
        let put = Op::put("/a", "1");
        let revision = Revision(7);
        assert_eq!(
            Write::of(std::slice::from_ref(&put), &[OpResult::Put], revision),
            Some(write(true))
        );
        let deleted = |count| Write::of(&[Op::delete("/a")], &[OpResult::Deleted(count)], revision);
        assert_eq!(deleted(1), Some(write(false)));
        assert_eq!(deleted(0), None);
        let nested = Op::Txn(Txn::default().then(vec![put]));
        let made = |succeeded, results| {
            Write::of(
                std::slice::from_ref(&nested),
                &[OpResult::Txn { succeeded, results }],
                revision,
            )
        };
        assert_eq!(made(true, vec![OpResult::Put]), Some(write(true)));
        assert_eq!(made(false, vec![]), None);
    }

    #[test]
    fn write_after_an_interruption_is_looked_up_together_with_the_one_before_it() {
        let at = |revision| Write {
            revision: Revision(revision),
            ..write(true)
        };
        let witness = Witness::default();
        witness.wrote(at(6), Some(0));
        witness.wrote(at(7), Some(0));
        witness.wrote(at(5), Some(0));
        assert_eq!(witness.to_check(0), []);
        assert_eq!(witness.to_check(1), [at(7)]);
        // Sent after the interruption, and answered after another one.
        witness.wrote(at(8), Some(1));
        witness.wrote(at(9), None);
        assert_eq!(witness.to_check(1), [at(7), at(9)]);
        witness.checked(1, &[at(7), at(9)]);
        assert_eq!(witness.to_check(1), []);
        assert_eq!(witness.to_check(2), [at(9)]);
        witness.wrote(at(10), Some(1));
        assert_eq!(witness.to_check(2), [at(10)]);
    }

    #[test]
    fn silence_counts_once() {
        let at = |ms| Instant::from_origin(Duration::from_millis(ms));
        let witness = Witness::default();
        witness.answered(at(10_000));
        witness.answered(at(10_499));
        assert_eq!(witness.silences(), 0);
        witness.answered(at(10_999));
        // Answered in another order.
        witness.answered(at(10_998));
        assert_eq!(witness.silences(), 1);
    }

    /// It was made while the others were looked up.
    #[test]
    fn write_that_was_not_looked_up_stays() {
        let witness = Witness::default();
        witness.wrote(write(true), Some(0));
        let writes = witness.to_check(1);
        let later = Write {
            revision: Revision(9),
            ..write(true)
        };
        witness.wrote(later.clone(), Some(1));
        witness.checked(1, &writes);
        assert_eq!(witness.to_check(2), [write(true), later]);
    }
}
