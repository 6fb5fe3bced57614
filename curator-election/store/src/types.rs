//! The data types of a store: revisions, leases, keys and events.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::StoreError;

/// A revision of the store. It increases by one with each transaction that changes something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a lease. Never zero: in etcd zero means "no lease", and a key without a lease would outlive its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(i64);

impl LeaseId {
    /// Converts an id as the store reports it; `None` for zero.
    #[must_use]
    pub const fn new(id: i64) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The number used on the wire.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// Lower-case hex without padding, as etcd's own tools print it.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The id of the lease.
    pub id: LeaseId,
    /// The granted TTL, which may be longer than the requested one.
    pub ttl: Duration,
}

/// The TTL of a lease, as granted and as remaining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// The granted TTL: what each renewal sets.
    pub granted: Duration,
    /// The time until the lease expires, rounded down to seconds.
    pub remaining: Duration,
}

/// A key and its value, with their metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, without the namespace.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key was created, after its last deletion.
    pub create_revision: Revision,
    /// The revision of the last change of the key.
    pub mod_revision: Revision,
    /// The number of puts since the key was created, starting with 1.
    pub version: i64,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
}

/// One key, or a half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Keys {
    /// Exactly this key.
    One(Bytes),
    /// All keys `start <= key < end`.
    Range {
        /// The first key.
        start: Bytes,
        /// The first key past the range.
        end: Bytes,
    },
}

impl Keys {
    /// Exactly `key`.
    pub fn one(key: impl Into<Bytes>) -> Self {
        Self::One(key.into())
    }

    /// All keys that start with `prefix`, which must not be empty nor consist of `0xff` bytes alone.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self::Range { start, end: end.into() }
    }

    /// Whether `key` is one of these keys.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Range { start, end } => start.as_ref() <= key && key < end.as_ref(),
        }
    }
}

/// A change reported by a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was put.
    Put(KeyValue),
    /// The key was deleted, at this revision.
    Delete {
        /// The key.
        key: Bytes,
        /// The revision of the deletion.
        revision: Revision,
    },
}

/// The changes of one or more complete revisions, in order; empty for a progress report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The store's revision when the batch was sent: no older change follows.
    pub revision: Revision,
    /// The changes.
    pub events: Vec<Event>,
}

/// The changes from a revision on. The stream ends after its first error. Then open a new watch from the revision after
/// the last one received.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(
            Keys::prefix("/leader/"),
            Keys::Range {
                start: "/leader/".into(),
                end: "/leader0".into()
            }
        );
        let keys = Keys::prefix(vec![b'a', 0xff]);
        assert_eq!(
            keys,
            Keys::Range {
                start: vec![b'a', 0xff].into(),
                end: "b".into()
            }
        );
        assert!(keys.contains(&[b'a', 0xff, 1]) && !keys.contains(b"b"));
    }

    #[test]
    fn lease_zero_is_no_lease() {
        assert_eq!(LeaseId::new(0), None);
        assert_eq!(
            LeaseId::new(0x694d_7715_2b8f_7c0a).map(|id| id.to_string()).as_deref(),
            Some("694d77152b8f7c0a")
        );
    }
}
