//! Transactions and reads: what is compared, what is done, and what is answered.

use bytes::Bytes;

use crate::{KeyValue, Keys, LeaseId, Revision};

/// What a [`Compare`] looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The create revision; 0 while the key does not exist.
    CreateRevision(Revision),
    /// The revision of the last change; 0 while the key does not exist.
    ModRevision(Revision),
    /// The number of puts since creation; 0 while the key does not exist.
    Version(i64),
    /// The value. Never holds while the key does not exist.
    Value(Bytes),
}

/// How a [`Compare`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// The stored one equals the given one.
    Equal,
    /// The stored one differs from the given one.
    NotEqual,
    /// The stored one is greater.
    Greater,
    /// The stored one is less.
    Less,
}

/// One condition of a transaction.
///
/// Over a range it must hold for each key in it. Where there is no key, revisions and version count as zero, and a compare
/// with a value never holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key or keys.
    pub keys: Keys,
    /// How to compare.
    pub ordering: Ordering,
    /// What to compare with.
    pub target: Target,
}

impl Compare {
    /// The key exists and was created at `revision`; with revision 0, that it does not exist.
    pub fn created_at(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self {
            keys: Keys::one(key),
            ordering: Ordering::Equal,
            target: Target::CreateRevision(revision),
        }
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::created_at(key, Revision(0))
    }

    /// The key was last changed at `revision`; with revision 0, that it does not exist.
    pub fn changed_at(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self {
            keys: Keys::one(key),
            ordering: Ordering::Equal,
            target: Target::ModRevision(revision),
        }
    }
}

/// The order in which a range is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// By key, ascending: the order of the store.
    #[default]
    Key,
    /// By create revision, lowest first.
    CreateAscending,
    /// By create revision, highest first.
    CreateDescending,
}

/// A read of some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: Keys,
    /// In which order.
    pub sort: Sort,
    /// At most this many, 0 for all.
    pub limit: usize,
    /// Leaves out keys created after this revision, 0 for none.
    pub max_create_revision: Revision,
    /// Leaves the values out. The keys' leases are then told by etcd up to 3.6, and not by 3.7: rely on neither.
    pub keys_only: bool,
    /// Reads at this revision of the past; 0 for the newest.
    pub revision: Revision,
}

impl Range {
    /// All of `keys`, with values, at the newest revision.
    #[must_use]
    pub const fn all(keys: Keys) -> Self {
        Self {
            keys,
            sort: Sort::Key,
            limit: 0,
            max_create_revision: Revision(0),
            keys_only: false,
            revision: Revision(0),
        }
    }

    /// The oldest of `keys` by create revision.
    #[must_use]
    pub const fn oldest(keys: Keys) -> Self {
        let mut range = Self::all(keys);
        range.sort = Sort::CreateAscending;
        range.limit = 1;
        range
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads.
    Range(Range),
    /// Writes `value` at `key`.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
        /// Attaches the key to this lease; `None` detaches it.
        lease: Option<LeaseId>,
    },
    /// Deletes.
    Delete(Keys),
    /// A transaction within the transaction, with conditions, branches and an answer of its own.
    ///
    /// All conditions, the outer one's and those of every nested one, are looked at before the first operation is carried
    /// out: none sees what another has done. No key may be put by two of them.
    Txn(Txn),
}

impl Op {
    /// Reads exactly `key`.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Range(Range::all(Keys::one(key)))
    }

    /// Writes `value` at `key`, attached to no lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        }
    }

    /// Deletes exactly `key`.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete(Keys::one(key))
    }
}

/// A transaction: if all compares hold, `success` is carried out, else `failure`; in order, atomically.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions, all of which must hold.
    pub compares: Vec<Compare>,
    /// What is done when they hold.
    pub success: Vec<Op>,
    /// What is done when they do not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction without operations yet, under these conditions.
    #[must_use]
    pub const fn when(compares: Vec<Compare>) -> Self {
        Self {
            compares,
            success: Vec::new(),
            failure: Vec::new(),
        }
    }

    /// What is done when the conditions hold.
    #[must_use]
    pub fn then(mut self, ops: Vec<Op>) -> Self {
        self.success = ops;
        self
    }

    /// What is done when they do not.
    #[must_use]
    pub fn or_else(mut self, ops: Vec<Op>) -> Self {
        self.failure = ops;
        self
    }
}

/// The answer to one [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// What was read, and how many keys matched (a limit does not lower the count).
    Range {
        /// The keys and values.
        kvs: Vec<KeyValue>,
        /// How many keys there are in the range.
        count: i64,
    },
    /// The value was written.
    Put,
    /// So many keys were deleted.
    Deleted(i64),
    /// What became of a nested transaction.
    Txn {
        /// Whether its compares held.
        succeeded: bool,
        /// One answer for each of its operations carried out.
        results: Vec<Self>,
    },
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// The store's revision once the transaction was done.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// One answer for each operation carried out.
    pub results: Vec<OpResult>,
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// The store's revision at the time of the read.
    pub revision: Revision,
    /// The keys and values.
    pub kvs: Vec<KeyValue>,
    /// How many keys there are in the range, whatever the limit.
    pub count: i64,
}
