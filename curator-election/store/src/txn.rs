//! Transactions and reads: conditions, operations and results.

use bytes::Bytes;

use crate::{KeyValue, Keys, LeaseId, Revision};

/// The attribute of a key that a [`Compare`] compares, and the value to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The create revision; 0 while the key does not exist.
    CreateRevision(Revision),
    /// The revision of the last change; 0 while the key does not exist.
    ModRevision(Revision),
    /// The number of puts since creation; 0 while the key does not exist.
    Version(i64),
    /// The value. The compare fails while the key does not exist.
    Value(Bytes),
}

/// The operator of a [`Compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// The stored attribute equals the given one.
    Equal,
    /// The stored attribute differs from the given one.
    NotEqual,
    /// The stored attribute is greater.
    Greater,
    /// The stored attribute is less.
    Less,
}

/// A condition of a transaction.
///
/// Over a range it must hold for each key in the range. For a missing key, revisions and version are zero, and a
/// compare of the value fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key or keys.
    pub keys: Keys,
    /// The operator.
    pub ordering: Ordering,
    /// The attribute and the value to compare with.
    pub target: Target,
}

impl Compare {
    /// The key exists with create revision `revision`; for revision 0, it does not exist.
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

    /// The key exists with mod revision `revision`; for revision 0, it does not exist.
    pub fn changed_at(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self {
            keys: Keys::one(key),
            ordering: Ordering::Equal,
            target: Target::ModRevision(revision),
        }
    }
}

/// The order of the results of a range read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// By key, ascending: the default order.
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
    /// The keys to read.
    pub keys: Keys,
    /// The order of the results.
    pub sort: Sort,
    /// The maximum number of results; 0 for all.
    pub limit: usize,
    /// Excludes keys created after this revision; 0 for no limit.
    pub max_create_revision: Revision,
    /// Excludes the values. The leases of the keys are then unreliable: etcd up to 3.6 returns them, etcd 3.7 does not.
    pub keys_only: bool,
    /// Reads at this past revision; 0 for the current one.
    pub revision: Revision,
}

impl Range {
    /// All of `keys`, with values, at the current revision.
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
    /// A nested transaction, with its own conditions, branches and result.
    ///
    /// All conditions, of the outer and of every nested transaction, are checked before the first operation is
    /// executed. No key may be put by two of them.
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

/// A transaction: if all compares hold, executes `success`, otherwise `failure`, in order and atomically.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The operations if all conditions hold.
    pub success: Vec<Op>,
    /// The operations otherwise.
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction with these conditions and no operations.
    #[must_use]
    pub const fn when(compares: Vec<Compare>) -> Self {
        Self {
            compares,
            success: Vec::new(),
            failure: Vec::new(),
        }
    }

    /// Sets the operations for the case that all conditions hold.
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

/// The result of an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The result of a read.
    Range {
        /// The keys and values.
        kvs: Vec<KeyValue>,
        /// The number of keys in the range, independent of the limit.
        count: i64,
    },
    /// The value was written.
    Put,
    /// The number of deleted keys.
    Deleted(i64),
    /// The result of a nested transaction.
    Txn {
        /// Whether its conditions held.
        succeeded: bool,
        /// One result for each executed operation.
        results: Vec<Self>,
    },
}

/// The result of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// The store's revision after the transaction.
    pub revision: Revision,
    /// Whether all conditions held.
    pub succeeded: bool,
    /// One result for each executed operation.
    pub results: Vec<OpResult>,
}

/// The result of a [`Range`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// The store's revision at the time of the read.
    pub revision: Revision,
    /// The keys and values.
    pub kvs: Vec<KeyValue>,
    /// The number of keys in the range, independent of the limit.
    pub count: i64,
}
