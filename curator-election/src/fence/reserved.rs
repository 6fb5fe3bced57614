//! The keys that belong to the election of a term: no data may be written there.

use bytes::Bytes;

use super::FencedError;
use crate::store::{Keys, Op};

/// What follows the election's prefix in the keys beside the queue that belong to the election as well.
const BESIDE: &[u8] = b"-challenge/";

/// Checks that no operation writes a key of the election that `lock_key` is from.
pub(super) fn check(lock_key: &Bytes, ops: &[Op]) -> Result<(), FencedError> {
    // A lock key without a slash is the only key of its election.
    let Some(slash) = lock_key.iter().rposition(|byte| *byte == b'/') else {
        return check_each(lock_key, &Keys::One(lock_key.clone()), ops);
    };
    let queue = lock_key.slice(..=slash);
    let beside = Bytes::from([&lock_key[..slash], BESIDE].concat());
    for prefix in [queue, beside] {
        check_each(&prefix, &Keys::prefix(prefix.clone()), ops)?;
    }
    Ok(())
}

fn check_each(reserved: &Bytes, keys: &Keys, ops: &[Op]) -> Result<(), FencedError> {
    for op in ops {
        let written = match op {
            Op::Range(_) => None,
            Op::Put { key, .. } => Some((key, keys.contains(key))),
            Op::Delete(Keys::One(key)) => Some((key, keys.contains(key))),
            Op::Delete(Keys::Range { start, end }) => Some((start, overlaps(keys, start, end))),
            Op::Txn(nested) => {
                check_each(reserved, keys, &nested.success)?;
                check_each(reserved, keys, &nested.failure)?;
                None
            }
        };
        if let Some((key, true)) = written {
            return Err(FencedError::Reserved {
                key: key.clone(),
                reserved: reserved.clone(),
            });
        }
    }
    Ok(())
}

/// Whether a range has keys in common with `keys`. In etcd an end of one zero byte is the end of all keys.
fn overlaps(keys: &Keys, start: &Bytes, end: &Bytes) -> bool {
    let before_end = |key: &Bytes| end.as_ref() == [0] || key < end;
    match keys {
        Keys::One(key) => start <= key && before_end(key),
        Keys::Range {
            start: first,
            end: past,
        } => start < past && before_end(first),
    }
}
