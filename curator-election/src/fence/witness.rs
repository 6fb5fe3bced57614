//! The newest write of a term: after a suspension it shows whether the store still has what the term has written.
//!
//! A restored backup has lost the last writes. Usually its revision is lower than the newest that the term knows, which
//! the next answer shows. But while a leader is stopped, other writes (challenges, campaigns) may carry the restored
//! store past that revision, with the lock key still there: neither the guard nor the revision shows the loss then.
//! The term is suspended meanwhile, for a restore takes longer than the failover limit. So the first answer after a
//! suspension counts only if the newest write of the term is in the store's history at its revision.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::store::{KeyValue, Keys, Op, OpResult, Range, Revision};

/// The newest writes of a term, and the suspensions after which they were looked up. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The newest write before the suspensions that are not checked yet.
    known: Option<Write>,
    /// The newest write after them. It alone shows nothing: the store may have lost `known` before it.
    later: Option<Write>,
    /// The number of resumptions of the term up to which the store is known to be the same.
    checked: u64,
}

/// A write to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    key: Bytes,
    pub(super) revision: Revision,
    /// Whether the key was put; otherwise it was deleted.
    put: bool,
}

impl Write {
    /// One of the writes that a transaction has made, if it has made one to a single key.
    pub(super) fn of(ops: &[Op], results: &[OpResult], revision: Revision) -> Option<Self> {
        let written = |key: &Bytes, put| Self {
            key: key.clone(),
            revision,
            put,
        };
        ops.iter().zip(results).rev().find_map(|made| match made {
            (Op::Put { key, .. }, _) => Some(written(key, true)),
            // Another operation of the transaction may not write the key, so it is absent now.
            (Op::Delete(Keys::One(key)), OpResult::Deleted(count)) if *count > 0 => Some(written(key, false)),
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
            keys_only: true,
            ..Range::all(Keys::One(self.key.clone()))
        }
    }

    /// Whether the history at the revision of the write, as read by [`look_up`](Self::look_up), contains the write.
    pub(super) fn is_in(&self, found: &[KeyValue]) -> bool {
        match found.first() {
            Some(found) => self.put && found.mod_revision == self.revision,
            None => !self.put,
        }
    }

    /// Whether the key as it is now, as read by [`current`](Self::current), is one that the write may have led to. A key
    /// that was written later shows nothing.
    pub(super) fn may_be_in(&self, current: &[KeyValue]) -> bool {
        match current.first() {
            Some(current) if self.put => current.mod_revision >= self.revision,
            Some(current) => current.create_revision > self.revision,
            None => true,
        }
    }
}

impl Witness {
    /// Records a write. `since` is the number of resumptions of the term when it was sent, if the term was valid ever
    /// since; otherwise it may have been made after a suspension.
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

    /// The writes to look up after this number of resumptions.
    pub(super) fn to_check(&self, resumptions: u64) -> Vec<Write> {
        let mut state = self.state();
        let writes: Vec<_> = state.known.iter().chain(&state.later).cloned().collect();
        if writes.is_empty() {
            state.checked = state.checked.max(resumptions);
        }
        if state.checked < resumptions {
            writes
        } else {
            Vec::new()
        }
    }

    /// The store has these writes, after this number of resumptions.
    pub(super) fn checked(&self, resumptions: u64, writes: &[Write]) {
        let mut state = self.state();
        state.checked = state.checked.max(resumptions);
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
            value: Bytes::new(),
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
            put,
        }
    }

    #[test]
    fn history_has_a_write_or_has_lost_it() {
        assert!(write(true).is_in(&kv(3, 7)));
        assert!(!write(true).is_in(&kv(3, 6)), "the put is lost");
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
        let made = |succeeded, results| Write::of(&[nested.clone()], &[OpResult::Txn { succeeded, results }], revision);
        assert_eq!(made(true, vec![OpResult::Put]), Some(write(true)));
        assert_eq!(made(false, vec![]), None);
    }

    #[test]
    fn write_after_a_suspension_is_looked_up_together_with_the_one_before_it() {
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
        // Sent after the suspension, and answered after another one.
        witness.wrote(at(8), Some(1));
        witness.wrote(at(9), None);
        assert_eq!(witness.to_check(1), [at(7), at(9)]);
        witness.checked(1, &[at(7), at(9)]);
        assert_eq!(witness.to_check(1), []);
        assert_eq!(witness.to_check(2), [at(9)]);
        witness.wrote(at(10), Some(1));
        assert_eq!(witness.to_check(2), [at(10)]);
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
