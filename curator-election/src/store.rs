//! The small part of etcd's v3 API that an election and fenced state need, as one object-safe trait.
//!
//! The algorithms of this crate are written once, over [`Store`]; a real etcd and the model of etcd both implement it.
//! Semantics are etcd's: a revision counts the transactions that changed something; a transaction is atomic; an event
//! of a watch carries the revision of its change; a lease that is not renewed takes its keys with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A revision of the store: it grows by one with each transaction that changes something.
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

/// The id of a lease. Never zero: the store reads zero as "no lease", and a key put without one would outlive its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(i64);

impl LeaseId {
    /// Takes an id as the store reports it; `None` for zero.
    #[must_use]
    pub const fn new(id: i64) -> Option<Self> {
        if id == 0 { None } else { Some(Self(id)) }
    }

    /// The number as it goes over the wire.
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

/// A lease as granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// The TTL that the store granted, which may be longer than the one asked for.
    pub ttl: Duration,
}

/// A key and its value, with the revisions that the store keeps beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, without the namespace.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key was created (after its last deletion).
    pub create_revision: Revision,
    /// The revision of its last change.
    pub mod_revision: Revision,
    /// How often it was put since it was created, starting with 1.
    pub version: i64,
    /// The lease that it is attached to.
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

    /// Whether `key` is meant.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Range { start, end } => start.as_ref() <= key && key < end.as_ref(),
        }
    }
}

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

/// One change that a watch reports.
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

/// The changes of one or more whole revisions, in order; empty when the store only reports its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The store's revision when the batch was sent: nothing older will follow.
    pub revision: Revision,
    /// The changes.
    pub events: Vec<Event>,
}

/// The changes from a revision on. Ends after its first error; a new watch must then be opened from the revision after
/// the last one seen.
pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

/// Why a call to the store failed, by what the caller may do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The call was never carried out: it may be made again.
    #[error("the store could not be reached, nothing was done: {reason}")]
    Unreachable {
        /// What went wrong.
        reason: String,
    },
    /// No answer: the call may or may not have been carried out.
    #[error("no answer from the store, the call may have been carried out: {reason}")]
    Unknown {
        /// What went wrong.
        reason: String,
    },
    /// Members of the store answer, but not enough of them to agree on anything: the call was never carried out, and will not be
    /// before more of them are back.
    #[error("the store has no quorum, nothing was done: {reason}")]
    NoQuorum {
        /// How many answer, and what to do.
        reason: String,
    },
    /// The revision asked for is no longer kept. Read afresh and go on from there.
    #[error("the store has compacted its history up to revision {revision}: read afresh")]
    Compacted {
        /// The oldest revision that is kept, 0 if the store did not say.
        revision: Revision,
    },
    /// The lease does not exist (any more): the keys attached to it are gone.
    #[error("lease {id} does not exist any more, grant a new one")]
    LeaseNotFound {
        /// The lease.
        id: LeaseId,
    },
    /// The store refuses the call as such; making it again will not help until something is changed.
    #[error("the store refuses the call: {reason}")]
    Refused {
        /// What has to change before the call is made again.
        kind: RefusalKind,
        /// What the store says.
        reason: String,
    },
}

/// Why a store refuses a call, by what has to change before it is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The store has no space left for writes (etcd's NOSPACE alarm): free space, then disarm the alarm.
    NoSpace,
    /// The request or its answer is larger than a limit of the store or of its client: ask for less at once.
    TooLarge,
    /// The store has too much to do, and did not begin: call again later, and less often.
    Overloaded,
    /// The store knows who calls, and does not allow this: grant the permission.
    Permission,
    /// The store does not accept who calls: user, password, token or client certificate.
    Authentication,
    /// The revision is newer than the store's own. It was read from another store, or from this one before it was restored.
    FutureRevision,
    /// The members that answer are of different clusters, or of another one than before.
    WrongCluster,
    /// Anything else: the call itself is wrong, or the store cannot carry it out.
    Other,
}

impl RefusalKind {
    /// One word for it, as a metric's label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoSpace => "no_space",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Permission => "permission",
            Self::Authentication => "authentication",
            Self::FutureRevision => "future_revision",
            Self::WrongCluster => "wrong_cluster",
            Self::Other => "refused",
        }
    }
}

impl StoreError {
    /// A refusal of no kind of its own.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused {
            kind: RefusalKind::Other,
            reason: reason.into(),
        }
    }

    /// One word for it, as a metric's label.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Unknown { .. } => "no_answer",
            Self::NoQuorum { .. } => "no_quorum",
            Self::Compacted { .. } => "compacted",
            Self::LeaseNotFound { .. } => "lease_not_found",
            Self::Refused { kind, .. } => kind.word(),
        }
    }

    /// Why the store refuses the call, if it does.
    #[must_use]
    pub const fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the call certainly had no effect.
    #[must_use]
    pub const fn never_ran(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}

/// A linearizable key-value store with transactions, leases and watches.
///
/// Every method returns within a bound that the implementation states, also when the store accepts connections and
/// never answers; a watch ends with an error within such a bound once the store no longer answers it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Carries out a transaction.
    ///
    /// Cancellation: the call may have been carried out or not, as after [`StoreError::Unknown`].
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Reads, linearizably: it reflects every write acknowledged before the call began.
    ///
    /// Cancellation safe.
    async fn range(&self, range: Range) -> Result<RangeResult, StoreError>;

    /// Watches `keys` from revision `from` (inclusive); 0 is "from now on".
    ///
    /// Returns once the store has confirmed the watch, so that no later change is missed. Cancellation safe.
    ///
    /// A `from` that is compacted may be told here or by the stream's first item: etcd confirms such a watch first.
    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError>;

    /// Asks for a lease of `ttl`, which is sent in whole seconds, rounded up.
    ///
    /// Cancellation, or a lost reply, leaves a lease behind that nobody renews: it is gone after its TTL.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Renews a lease once; returns the TTL that it has from now on.
    ///
    /// Several attempts may be under way at once. `attempt` lets an implementation with several members send them to
    /// different ones: equal numbers go to the same member first. Cancellation safe, the lease may have been renewed.
    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError>;

    /// Gives the lease back, and deletes the keys attached to it.
    ///
    /// Cancellation: it may have happened or not; else the lease is gone after its TTL.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

#[async_trait]
impl<S: Store + ?Sized> Store for Arc<S> {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        (**self).txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        (**self).range(range).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        (**self).watch(keys, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        (**self).grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        (**self).keep_alive(lease, attempt).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        (**self).revoke(lease).await
    }
}

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
