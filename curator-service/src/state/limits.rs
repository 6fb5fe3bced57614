//! Size limits of the state. Pure; no I/O.
//!
//! Every leader reads all of the state and keeps it in memory. These limits are far below those of etcd and of what a
//! new leader can read.

use curator_election::store::{Keys, Op};
use tonic::Status;

use crate::state::view::View;
use curator_election::fence::Change;

/// The size limits of the state. A change that reduces the size is never refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimits {
    /// The maximum size of a value, in bytes.
    pub record: usize,
    /// The maximum size of all keys and values, in bytes.
    pub total: usize,
}

impl Default for StateLimits {
    /// 256 KiB per record, a sixth of etcd's default request limit, and 256 MiB in total, an eighth of etcd's default
    /// quota.
    fn default() -> Self {
        Self {
            record: 256 << 10,
            total: 256 << 20,
        }
    }
}

impl StateLimits {
    /// Refuses a change that makes a record or the state larger than its limit.
    pub(super) fn check(self, view: &View, change: &Change) -> Result<(), Status> {
        let (mut added, mut removed) = (0, 0);
        for op in &change.ops {
            let (key, size) = match op {
                Op::Put { key, value, .. } => (key, key.len() + value.len()),
                Op::Delete(Keys::One(key)) => (key, 0),
                Op::Delete(Keys::Range { .. }) | Op::Range(_) | Op::Txn(_) => continue,
            };
            let before = view.get(key).map_or(0, |entry| key.len() + entry.value.len());
            if size > before && size - key.len() > self.record {
                return Err(Status::resource_exhausted(format!(
                    "record {} would have {} bytes, more than --max-record-bytes ({}): nothing was changed",
                    String::from_utf8_lossy(key),
                    size - key.len(),
                    self.record
                )));
            }
            added += size;
            removed += before;
        }
        let after = (view.bytes() + added).saturating_sub(removed);
        if added > removed && after > self.total {
            return Err(Status::resource_exhausted(format!(
                "the state would have {after} bytes, more than --max-state-bytes ({}): nothing was changed. \
                 Delete unused nodes, or raise the limit on all instances",
                self.total
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use curator_election::store::Revision;
    use tonic::Code;

    use super::*;

    fn view(keys: &[(&'static str, usize)]) -> View {
        let mut view = View::default();
        for (key, size) in keys {
            view.put((*key).into(), vec![0; *size].into(), Revision(1));
        }
        view
    }

    fn put(key: &'static str, size: usize) -> Op {
        Op::put(key, vec![0; size])
    }

    fn told(view: &View, ops: Vec<Op>) -> Option<String> {
        let limits = StateLimits {
            record: 100,
            total: 300,
        };
        let change = Change {
            conditions: Vec::new(),
            ops,
        };
        limits.check(view, &change).err().map(|status| {
            assert_eq!(status.code(), Code::ResourceExhausted);
            status.message().to_owned()
        })
    }

    #[test]
    fn what_is_too_large_is_refused_and_what_becomes_smaller_is_not() {
        let full = view(&[("/nodes/a", 90), ("/nodes/b", 90), ("/nodes/c", 90)]);
        assert_eq!(full.bytes(), 294);
        // A record.
        assert_eq!(told(&full, vec![put("/nodes/a", 96)]), None);
        assert!(told(&full, vec![put("/nodes/a", 101)]).is_some_and(|told| told.contains("--max-record-bytes")));
        // All of it: by a growing record, and by a new one.
        assert!(told(&full, vec![put("/nodes/a", 97)]).is_some_and(|told| told.contains("--max-state-bytes")));
        assert!(told(&full, vec![put("/nodes/d", 1)]).is_some_and(|told| told.contains("303 bytes")));
        // One for another.
        assert_eq!(told(&full, vec![put("/nodes/d", 50), Op::delete("/nodes/a")]), None);
        // A state that is larger than it may be, because the limits were others.
        let over = view(&[("/nodes/a", 200), ("/nodes/b", 200)]);
        assert_eq!(told(&over, vec![put("/nodes/a", 150)]), None);
        assert_eq!(told(&over, vec![Op::delete("/nodes/a")]), None);
        assert!(told(&over, vec![put("/nodes/c", 1)]).is_some());
    }
}
