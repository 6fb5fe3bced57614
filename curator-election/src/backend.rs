//! What the elector needs of a store, and no more.

mod store_election;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use self::store_election::StoreElection;
use crate::store::{Lease, LeaseId, Revision, StoreError};

/// A candidate's key, as found in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The lock key, without the store's namespace.
    pub key: Bytes,
    /// The value, as the candidate encoded it.
    pub value: Bytes,
    /// The revision at which the key was created. The lowest one leads.
    pub create_revision: Revision,
    /// The revision of the key's last change.
    pub mod_revision: Revision,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
}

/// Who leads, as the store had it at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The store's revision that this is the truth of.
    pub revision: Revision,
    /// The candidate with the lowest create revision, if there is any.
    pub leader: Option<Candidate>,
}

/// A won campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elected {
    /// The lock key, without the store's namespace.
    pub key: Bytes,
    /// The revision at which the lock key was created.
    pub revision: Revision,
    /// The store's revision at which no older candidate was left.
    pub won_at: Revision,
}

/// Why a campaign ended without elected.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CampaignError {
    /// The candidate's key is gone from the queue: its lease ran out, or somebody deleted it.
    #[error("the candidate's key {key:?} is gone from the queue: campaign again under a new lease")]
    KeyLost {
        /// The key.
        key: Bytes,
    },
    /// The store refuses the campaign.
    #[error("the store refuses the campaign: {0}")]
    Store(#[from] StoreError),
}

/// The election as a store keeps it.
///
/// The elector alone decides; a backend carries out. Every call but [`campaign`](Self::campaign) and the stream of
/// [`observe`](Self::observe) returns within a bound that the backend states.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait ElectionBackend: Send + Sync + 'static {
    /// All candidates, the oldest first. Linearizable.
    ///
    /// Cancellation safe.
    async fn candidates(&self) -> Result<Vec<Candidate>, StoreError>;

    /// Deletes the key of a candidate, if it was last changed at `mod_revision`; returns whether it did.
    ///
    /// Used for a key that an earlier process of the same candidate left behind. Cancellation: the key may be gone or not;
    /// calling again is safe.
    async fn remove(&self, key: Bytes, mod_revision: Revision) -> Result<bool, StoreError>;

    /// Asks for a lease.
    ///
    /// If the reply is lost, or the call cancelled, a lease without keys is left behind until its TTL has passed; it is in
    /// nobody's way.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Renews the lease once and returns the TTL that it has from the renewal on.
    ///
    /// Several may be under way at once; a backend with several members sends attempts with different numbers to
    /// different ones. Cancellation safe: the lease may have been renewed or not.
    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError>;

    /// Queues under the lease with this value, and completes when no older candidate is left.
    ///
    /// Passing failures of the store are retried inside; an error is final for this lease. It has been checked, in the
    /// same transaction that found no older candidate, that the own key was still there at its revision.
    ///
    /// Cancellation: the key may have been queued; [`revoke`](Self::revoke) removes it, and a put that is still on its way
    /// then fails for want of the lease.
    async fn campaign(&self, lease: LeaseId, value: Bytes) -> Result<Elected, CampaignError>;

    /// Gives the candidate's key, if it was created at `revision`, another value; returns whether it did. Its place in the queue
    /// stays, and so does its term.
    ///
    /// Cancellation: the value may have changed or not; calling again is safe.
    async fn proclaim(&self, key: Bytes, revision: Revision, lease: LeaseId, value: Bytes) -> Result<bool, StoreError>;

    /// Who leads: now, at each change, and again at intervals as a sign that it is still so by a linearizable read.
    ///
    /// Never ends and has no errors: it recovers from lost connections, hung members and compaction by itself, and stays
    /// silent meanwhile. Whoever needs fresh news takes silence for a failure. It may skip leaders, but not the last one.
    ///
    /// The revision is never less than that of the observation before, unless the store has lost what it knew: then it goes
    /// on from there.
    fn observe(&self) -> BoxStream<'static, Observation>;

    /// Gives the lease back, which deletes the candidate's key.
    ///
    /// Cancellation: it may have happened or not; calling again is safe.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}
