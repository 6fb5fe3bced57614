//! Selects the queued changes that share a transaction. Pure; no I/O.
//!
//! Changes in one transaction must not touch the same keys. The store evaluates all conditions before it executes
//! anything, so a condition on a key that another change writes could give an outcome that no sequential order has.
//! Changes that touch the same key are executed one after the other, in the order of the queue.

use std::collections::HashSet;

use bytes::Bytes;
use curator_election::store::{Keys, Op};

use crate::failpoint;
use curator_election::fence::Change;

/// etcd's default limit is 128 operations per transaction. A nested transaction counts as one operation of the outer
/// one, and its own operations count against the rest.
const MAX_CHANGES: usize = 64;
const MAX_OPS: usize = 128 - MAX_CHANGES;
/// etcd's default limit is 1.5 MiB per request.
const MAX_BYTES: usize = 1 << 20;

/// Takes the changes out of the queue that may share a transaction; the first change is always taken.
pub(crate) fn take<T>(waiting: &mut Vec<T>, change: impl Fn(&T) -> &Change) -> Vec<T> {
    let mut touched = HashSet::new();
    let mut taken = 0;
    let mut bytes = 0;
    let mut alone = false;
    waiting
        .extract_if(.., |each| {
            let change = change(each);
            let keys: Vec<Bytes> = keys(change).collect();
            let touches = keys.iter().any(|key| touched.contains(key));
            let free = !touches || failpoint::on(failpoint::BATCHES_WHAT_TOUCHES);
            let with = bytes + size(change);
            let first = taken == 0;
            let small = change.conditions.len().max(change.ops.len()) <= MAX_OPS;
            let fits = first || (!alone && small && taken < MAX_CHANGES && with <= MAX_BYTES);
            // A change that stays blocks later changes that touch the same keys.
            touched.extend(keys);
            let take = free && fits;
            if take {
                taken += 1;
                bytes = with;
                alone |= !small;
            }
            take
        })
        .collect()
}

fn keys(change: &Change) -> impl Iterator<Item = Bytes> {
    let conditions = change.conditions.iter().map(|condition| &condition.keys);
    let ops = change.ops.iter().filter_map(|op| match op {
        Op::Delete(keys) => Some(keys),
        Op::Range(_) | Op::Put { .. } | Op::Txn(_) => None,
    });
    let puts = change.ops.iter().filter_map(|op| match op {
        Op::Put { key, .. } => Some(key),
        Op::Range(_) | Op::Delete(_) | Op::Txn(_) => None,
    });
    // A `Tx` writes and compares only single keys.
    let single = conditions.chain(ops).map(|keys| match keys {
        Keys::One(key) => key,
        Keys::Range { start, .. } => start,
    });
    single.chain(puts).cloned()
}

fn size(change: &Change) -> usize {
    let values = change.ops.iter().map(|op| match op {
        Op::Put { value, .. } => value.len(),
        Op::Range(_) | Op::Delete(_) | Op::Txn(_) => 0,
    });
    values.sum::<usize>() + keys(change).map(|key| key.len() + 16).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use curator_election::store::Compare;

    use super::*;

    fn change(reads: &[&'static str], writes: &[&'static str]) -> Change {
        Change {
            conditions: reads.iter().map(|key| Compare::absent(*key)).collect(),
            ops: writes.iter().map(|key| Op::put(*key, "v")).collect(),
        }
    }

    fn taken(changes: Vec<Change>) -> Vec<Vec<usize>> {
        let mut waiting: Vec<_> = changes.into_iter().enumerate().collect();
        let mut batches = Vec::new();
        while !waiting.is_empty() {
            let batch = take(&mut waiting, |(_, change)| change);
            batches.push(batch.into_iter().map(|(number, _)| number).collect());
        }
        batches
    }

    #[test]
    fn what_does_not_touch_goes_together() {
        let changes = vec![change(&["a"], &["a"]), change(&["b"], &["b", "c"]), change(&[], &["d"])];
        assert_eq!(taken(changes), [[0, 1, 2]]);
    }

    #[test]
    fn one_key_is_written_in_order() {
        let changes = vec![change(&["a"], &["a"]), change(&["a"], &["a"]), change(&["b"], &["b"])];
        assert_eq!(taken(changes), [vec![0, 2], vec![1]]);
    }

    /// Both may hold before anything is done, and yet there is no order in which both hold.
    #[test]
    fn what_reads_what_another_writes_waits() {
        let changes = vec![change(&["a"], &["b"]), change(&["b"], &["a"])];
        assert_eq!(taken(changes), [[0], [1]]);
    }

    #[test]
    fn who_waits_is_not_overtaken_on_its_keys() {
        let changes = vec![change(&["a"], &["a"]), change(&["a"], &["b"]), change(&["b"], &["b"])];
        assert_eq!(taken(changes), [[0], [1], [2]]);
    }

    #[test]
    fn etcds_limits_are_kept() {
        let names: Vec<&'static str> = (0..200).map(|n| &*format!("k{n}").leak()).collect();
        let many: Vec<_> = names.iter().map(|name| change(&[name], &[name])).collect();
        let sizes: Vec<_> = taken(many).iter().map(Vec::len).collect();
        assert_eq!(sizes, [64, 64, 64, 8]);
        // One with many operations goes alone.
        let large = change(&names[..100], &[]);
        assert_eq!(taken(vec![large.clone(), change(&[], &["x"])]), [[0], [1]]);
        assert_eq!(taken(vec![change(&[], &["x"]), large]), [[0], [1]]);
        // And so does one with many bytes.
        let huge = Change {
            conditions: Vec::new(),
            ops: vec![Op::put("huge", vec![0; MAX_BYTES])],
        };
        assert_eq!(taken(vec![change(&[], &["x"]), huge]), [[0], [1]]);
    }
}
