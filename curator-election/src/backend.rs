//! The interface between the elector and a store.

#[cfg(any(test, feature = "mock"))]
mod mock;
mod store_election;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

#[cfg(any(test, feature = "mock"))]
pub use self::mock::MockElectionBackend;
pub use self::store_election::StoreElection;
use crate::challenge::ChallengeRecord;
pub use crate::challenge::{Standing, StoredRecord};
use crate::settings::ElectorError;
use crate::store::{Lease, LeaseId, Revision, StoreError, TimeToLive};

/// A candidate's key, as found in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The lock key, without the store's namespace.
    pub key: Bytes,
    /// The value, as the candidate encoded it.
    pub value: Bytes,
    /// The revision at which the key was created. The lowest one leads.
    pub create_revision: Revision,
    /// The revision of the last change of the key.
    pub mod_revision: Revision,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
}

/// The leader at a revision of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The revision of the store.
    pub revision: Revision,
    /// The candidate with the lowest create revision; `None` if there is none, or if the last one is gone and the next
    /// one is not known yet.
    pub leader: Option<Candidate>,
}

/// The result of a won campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elected {
    /// The lock key, without the store's namespace.
    pub key: Bytes,
    /// The revision at which the lock key was created.
    pub revision: Revision,
    /// The store's revision at which there was no older candidate.
    pub won_at: Revision,
    /// Whether the candidate has queued with a challenge key: then its term must be confirmed.
    pub has_challenge_key: bool,
}

/// Why a campaign failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CampaignError {
    /// The candidate's key does not exist any more: its lease expired, or the key was deleted.
    #[error("the candidate's key {key:?} does not exist any more: campaign again under a new lease")]
    KeyLost {
        /// The key.
        key: Bytes,
    },
    /// The store rejected the campaign.
    #[error("the store rejected the campaign: {0}")]
    Store(#[from] StoreError),
}

/// The guard of a change of a challenge key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordGuard {
    /// The lock key beside the challenge key.
    pub key: Bytes,
    /// The lock key must have this create revision.
    pub created: Revision,
    /// The challenge key must have this mod revision; 0 while it does not exist.
    pub seen: Revision,
    /// A challenger's own lock key and its create revision, which must still exist; `None` for the own challenge key.
    pub challenger: Option<(Bytes, Revision)>,
}

fn no_challenges() -> StoreError {
    StoreError::refused("this backend does not support challenges")
}

/// The election's operations on a store.
///
/// The elector decides; a backend executes. Every call except [`campaign`](Self::campaign) and the stream of
/// [`observe`](Self::observe) returns within a bound that the backend documents.
#[async_trait]
pub trait ElectionBackend: Send + Sync + 'static {
    /// All candidates, oldest first. Linearizable.
    ///
    /// Cancellation safe.
    async fn candidates(&self) -> Result<Vec<Candidate>, StoreError>;

    /// Deletes the key of a candidate if its mod revision is `mod_revision`; returns whether it did.
    ///
    /// Used for stale keys of an earlier process of the same candidate. Cancellation: the key may be deleted or not;
    /// calling again is safe.
    async fn remove(&self, key: Bytes, mod_revision: Revision) -> Result<bool, StoreError>;

    /// Grants a lease.
    ///
    /// If the reply is lost, or the call cancelled, an unused lease remains until its TTL has passed.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Renews the lease once and returns its TTL from the renewal on.
    ///
    /// Several attempts may be in progress; a backend with several members sends attempts with different numbers to
    /// different members. Cancellation safe: the lease may have been renewed or not.
    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError>;

    /// Queues under the lease with this value, and completes when there is no older candidate.
    ///
    /// With a `record` the candidate also puts its challenge key, in the same transaction. A backend without
    /// challenges, or whose store refuses the challenge key, queues without it and says so in the result.
    ///
    /// Transient failures of the store are retried; an error is final for this lease. The transaction that finds no
    /// older candidate also checks that the own key still exists at its revision.
    ///
    /// Called again under the same lease, with the same or another value: the candidate keeps its place, and its key
    /// has the new value.
    ///
    /// Cancellation: the key may have been queued; [`revoke`](Self::revoke) removes it, and a put in transit then fails
    /// because the lease does not exist.
    async fn campaign(
        &self,
        lease: LeaseId,
        value: Bytes,
        record: Option<ChallengeRecord>,
    ) -> Result<Elected, CampaignError>;

    /// Changes the value of the candidate's key if its create revision is `revision`; returns whether it did. The
    /// position in the queue and the term stay.
    ///
    /// Cancellation: the value may have changed or not; calling again is safe.
    async fn proclaim(&self, key: Bytes, revision: Revision, lease: LeaseId, value: Bytes) -> Result<bool, StoreError>;

    /// Observes the leader: now, at each change, and at intervals as a confirmation. Each observation is a linearizable
    /// read.
    ///
    /// The stream never ends and has no errors: it recovers from lost connections, hung members and compaction, and is
    /// silent meanwhile. A caller that needs a recent observation must treat silence as a failure. Intermediate leaders
    /// may be skipped, but not the last one.
    ///
    /// The revision never decreases, unless the store has gone back; then the stream continues from there.
    fn observe(&self) -> BoxStream<'static, Observation>;

    /// Reads the lock key `key` and the challenge key beside it in one linearizable read.
    ///
    /// Like the other calls for challenges, a backend without them need not implement it. Cancellation safe.
    async fn standing(&self, key: Bytes) -> Result<Standing, StoreError> {
        let _ = key;
        Err(no_challenges())
    }

    /// Puts the challenge key of the candidate with the lock key `guard.key`, attached to `lease`, if the guard holds;
    /// returns the revision of the put.
    ///
    /// Cancellation: it may have been put or not.
    async fn put_record(
        &self,
        guard: RecordGuard,
        lease: Option<LeaseId>,
        record: ChallengeRecord,
    ) -> Result<Option<Revision>, StoreError> {
        let _ = (guard, lease, record);
        Err(no_challenges())
    }

    /// Deletes the lock key `guard.key` and the challenge key beside it in one transaction, if the guard holds; returns
    /// whether it did.
    ///
    /// Cancellation: the keys may be deleted or not; calling again is safe.
    async fn depose(&self, guard: RecordGuard) -> Result<bool, StoreError> {
        let _ = guard;
        Err(no_challenges())
    }

    /// The granted and the remaining TTL of another candidate's lease: a hint. Cancellation safe.
    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        let _ = lease;
        Err(no_challenges())
    }

    /// Revokes the lease, which deletes the candidate's keys.
    ///
    /// Cancellation: it may have happened or not; calling again is safe.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Checks the settings of the backend against the TTL of the election.
    ///
    /// # Errors
    /// If they cannot work.
    fn check(&self, ttl: Duration) -> Result<(), ElectorError> {
        let _ = ttl;
        Ok(())
    }

    /// The full key under which a lock key is in the store, such as with the prefix of a namespace.
    ///
    /// A mock does not have this method: there it is the lock key.
    fn key_in_store(&self, key: &Bytes) -> Bytes {
        key.clone()
    }
}
