//! The election on a key-value store, with the key layout of `go.etcd.io/etcd/client/v3/concurrency`, so that
//! candidates of both take part in one election.
//!
//! A candidate puts `<prefix>/<lease id in hex>` attached to its lease. The key with the lowest create revision leads.
//! Each other candidate watches the key directly before its own, so that the end of a term wakes one candidate and not
//! all. For a leadership transfer the leader names a target in its value. The candidate directly behind the leader then
//! queues again at the end, if the target is behind it; the next one does the same, until the target is next.
//!
//! Differences to the Go library: the check for older keys also proves, in the same transaction, that the own key still
//! exists; a wait is checked at intervals, so that a broken watch does no harm; and after a lost reply to the put, the
//! put is repeated, which the guard on the create revision makes safe.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tracing::{debug, warn};

use super::{CampaignError, Candidate, Elected, ElectionBackend, Observation, RecordGuard, Standing, StoredRecord};
use crate::backoff::Backoff;
use crate::challenge::ChallengeRecord;
use crate::failpoint;
use crate::settings::{self, ElectorError};
use crate::store::{
    Compare, Event, KeyValue, Keys, Lease, LeaseId, Op, OpResult, Ordering, Range, RangeResult, RefusalKind, Revision,
    Sort, Store, StoreError, Target, TimeToLive, Txn, TxnResult, WatchStream,
};
use crate::value::LeaderValue;

/// The first pause after a failed call to the store.
const INITIAL_PAUSE: Duration = Duration::from_millis(25);
/// The maximum pause after a failed call to the store.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How long an observer waits for the next leader before it reports that the last one is gone.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_millis(50);
/// The number of consecutive reads with an old revision after which the store counts as gone back.
const MAX_OLD_READS: u32 = 3;

/// An election under a prefix of a [`Store`].
#[derive(Debug)]
pub struct StoreElection<S: ?Sized> {
    store: Arc<S>,
    prefix: String,
    refresh: Duration,
    seed: Option<u64>,
    transfer_to: Option<TransferTo>,
    /// The refusal of a challenge key is reported once.
    warned: AtomicBool,
}

/// Reads the transfer target from a leader's value.
type TransferTo = fn(&[u8]) -> Option<Bytes>;

fn transfer_to<V: LeaderValue>(value: &[u8]) -> Option<Bytes> {
    let value = V::decode(value).ok()?;
    value.transfer_to().map(|key| Bytes::copy_from_slice(key.as_bytes()))
}

impl<S: Store + ?Sized> StoreElection<S> {
    /// The election under `prefix`, such as `/leader`; its keys start with the prefix and a slash.
    ///
    /// Waits read again at each `refresh` interval, independent of watches; observers get an observation as often. Use
    /// a third of the TTL: the elector refuses more than half of it. [`ElectionBuilder`](crate::ElectionBuilder)
    /// derives it.
    pub fn new(store: Arc<S>, prefix: impl Into<String>, refresh: Duration) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            refresh,
            seed: None,
            transfer_to: None,
            warned: AtomicBool::new(false),
        }
    }

    /// Supports leadership transfer: a campaign makes way for the target that a leader's value, of type `V`, names.
    /// Without this a campaign keeps its position.
    #[must_use]
    pub fn with_transfer<V: LeaderValue>(mut self) -> Self {
        self.transfer_to = Some(transfer_to::<V>);
        self
    }

    /// Draws the jitter of the pauses from a seed, so that a simulation is reproducible.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    fn all_keys(&self) -> Keys {
        Keys::prefix(format!("{}/", self.prefix))
    }

    fn key_of(&self, lease: LeaseId) -> Bytes {
        format!("{}/{lease}", self.prefix).into()
    }

    /// The challenge key beside a lock key. `-` sorts before `/`, so it is outside the range of the candidates.
    fn challenge_key_of(&self, key: &Bytes) -> Bytes {
        let name = key.strip_prefix(self.prefix.as_bytes()).unwrap_or(key);
        [self.prefix.as_bytes(), b"-challenge", name].concat().into()
    }

    fn warn_of_refused_challenge_key(&self, error: &StoreError) {
        if !self.warned.swap(true, std::sync::atomic::Ordering::Relaxed) {
            warn!(
                prefix = %format!("{}-challenge/", self.prefix),
                %error,
                "the store refuses the challenge key: a dead leader is replaced only when its lease expires. Permit \
                 this user to read and write the prefix"
            );
        }
    }

    /// Deletes a lock key and the challenge key beside it.
    fn delete_both(&self, key: &Bytes) -> Vec<Op> {
        vec![Op::delete(key.clone()), Op::delete(self.challenge_key_of(key))]
    }

    fn guard(&self, guard: &RecordGuard) -> Vec<Compare> {
        if guard.challenger.is_none() && failpoint::on(failpoint::REFUTES_WITHOUT_GUARD) {
            return Vec::new();
        }
        let mut conditions = vec![
            Compare::created_at(guard.key.clone(), guard.created),
            Compare::changed_at(self.challenge_key_of(&guard.key), guard.seen),
        ];
        if let Some((own, created)) = &guard.challenger {
            conditions.push(Compare::created_at(own.clone(), *created));
        }
        conditions
    }

    fn pauses(&self) -> Backoff {
        // Each hasher has a random key, which suffices for jitter.
        let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(&self.prefix));
        Backoff::new(INITIAL_PAUSE, MAX_PAUSE, seed)
    }

    /// Puts the candidate's keys, or finds those of an earlier attempt whose reply was lost. Returns the create
    /// revision of the lock key.
    async fn queue(
        &self,
        key: &Bytes,
        lease: LeaseId,
        value: &Bytes,
        record: Option<&ChallengeRecord>,
    ) -> Result<Revision, StoreError> {
        let put = |key: Bytes, value: Bytes| Op::Put {
            key,
            value,
            lease: Some(lease),
        };
        let mut puts = vec![put(key.clone(), value.clone())];
        puts.extend(record.map(|record| put(self.challenge_key_of(key), record.to_string().into())));
        let txn = Txn::when(vec![Compare::absent(key.clone())])
            .then(puts)
            .or_else(vec![Op::get(key.clone())]);
        let answer = self.store.txn(txn).await?;
        if answer.succeeded {
            return Ok(answer.revision);
        }
        let Some(found) = first_kv(answer) else {
            return Err(StoreError::refused(
                "inconsistent transaction: an existing key was not found",
            ));
        };
        if found.value == value {
            return Ok(found.create_revision);
        }
        // This lease has campaigned before with another value: proclaim the new one.
        let created = found.create_revision;
        if self.proclaim(key.clone(), created, lease, value.clone()).await? {
            Ok(created)
        } else {
            Err(StoreError::LeaseNotFound { id: lease })
        }
    }

    /// The candidate directly before the own key, `None` if there is none; the same transaction checks that the own key
    /// exists.
    async fn predecessor(&self, key: &Bytes, own: Revision) -> Result<(Revision, Option<KeyValue>), CampaignError> {
        let read = Range {
            sort: Sort::CreateDescending,
            limit: 1,
            max_create_revision: Revision(own.0 - 1),
            ..Range::all(self.all_keys())
        };
        let mut own_key_exists = vec![Compare::created_at(key.clone(), own)];
        if failpoint::on(failpoint::NO_RECHECK_OF_OWN_KEY) {
            own_key_exists.clear();
        }
        let txn = Txn::when(own_key_exists).then(vec![Op::Range(read)]);
        let answer = self.store.txn(txn).await?;
        if !answer.succeeded {
            return Err(CampaignError::KeyLost { key: key.clone() });
        }
        Ok((answer.revision, first_kv(answer)))
    }

    /// Leaves the queue, to join it again at the end, if the candidate directly before the own key requests a transfer
    /// to a candidate behind it; returns whether it did. Afterwards the own key is behind the target, so it does so
    /// only once.
    ///
    /// Only a leader requests a transfer, so there is no need to check that the candidate before is the leader.
    async fn give_way(&self, key: &Bytes, own: Revision, before: &KeyValue) -> Result<bool, StoreError> {
        let Some(next) = self.transfer_to.and_then(|read| read(&before.value)) else {
            return Ok(false);
        };
        let behind_ours = Compare {
            keys: Keys::One(next),
            ordering: Ordering::Greater,
            target: Target::CreateRevision(own),
        };
        let still_requested = Compare::changed_at(before.key.clone(), before.mod_revision);
        let conditions = vec![Compare::created_at(key.clone(), own), still_requested, behind_ours];
        let answer = self
            .store
            .txn(Txn::when(conditions).then(self.delete_both(key)))
            .await?;
        Ok(answer.succeeded)
    }

    /// Waits until `key` is deleted or changed, the watch fails, or the refresh interval has passed.
    async fn wait_for_change(&self, key: Bytes, from: Revision) -> Result<(), StoreError> {
        let wait = async {
            let mut changes = self.store.watch(Keys::One(key), from).await?;
            while let Some(batch) = changes.next().await {
                if !batch?.events.is_empty() {
                    return Ok(());
                }
            }
            Err(StoreError::Unknown {
                reason: "watch closed".into(),
            })
        };
        tokio::time::timeout(self.refresh, wait).await.unwrap_or(Ok(()))
    }
}

#[async_trait]
impl<S: Store + ?Sized> ElectionBackend for StoreElection<S> {
    async fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        let range = Range {
            sort: Sort::CreateAscending,
            ..Range::all(self.all_keys())
        };
        Ok(self.store.range(range).await?.kvs.into_iter().map(candidate).collect())
    }

    async fn remove(&self, key: Bytes, mod_revision: Revision) -> Result<bool, StoreError> {
        let txn = Txn::when(vec![Compare::changed_at(key.clone(), mod_revision)]).then(self.delete_both(&key));
        Ok(self.store.txn(txn).await?.succeeded)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        self.store.keep_alive(lease, attempt).await
    }

    async fn campaign(
        &self,
        lease: LeaseId,
        value: Bytes,
        mut record: Option<ChallengeRecord>,
    ) -> Result<Elected, CampaignError> {
        let key = self.key_of(lease);
        let mut pauses = self.pauses();
        let mut queued = None;
        let mut refused = None;
        loop {
            let revision = match queued {
                Some(revision) => revision,
                None => match self.queue(&key, lease, &value, record.as_ref()).await {
                    Ok(revision) => {
                        // Not before: a user that may write nothing is refused both keys.
                        if let Some(error) = refused.take() {
                            self.warn_of_refused_challenge_key(&error);
                        }
                        *queued.insert(revision)
                    }
                    // A user that may write the election's prefix alone.
                    Err(error) if record.is_some() && error.refusal() == Some(RefusalKind::Permission) => {
                        record = None;
                        refused = Some(error);
                        continue;
                    }
                    Err(error) => {
                        pause_unless_final(error, &mut pauses).await?;
                        continue;
                    }
                },
            };
            let waited = match self.predecessor(&key, revision).await {
                Ok((won_at, None)) => {
                    return Ok(Elected {
                        key,
                        revision,
                        won_at,
                        has_challenge_key: record.is_some(),
                    });
                }
                Ok((at, Some(before))) => match self.give_way(&key, revision, &before).await {
                    Ok(false) => self.wait_for_change(before.key, at.next()).await,
                    gone => {
                        // If the reply was lost, the key may still exist: queueing again detects that.
                        queued = None;
                        gone.map(|_| debug!("queueing again behind the transfer target"))
                    }
                },
                Err(CampaignError::Store(error)) => Err(error),
                Err(error) => return Err(error),
            };
            match waited {
                Ok(()) => pauses.succeeded(),
                Err(error) => pause_unless_final(error, &mut pauses).await?,
            }
        }
    }

    async fn proclaim(&self, key: Bytes, revision: Revision, lease: LeaseId, value: Bytes) -> Result<bool, StoreError> {
        let guard = Compare::created_at(key.clone(), revision);
        let put = Op::Put {
            key,
            value,
            lease: Some(lease),
        };
        Ok(self.store.txn(Txn::when(vec![guard]).then(vec![put])).await?.succeeded)
    }

    fn observe(&self) -> BoxStream<'static, Observation> {
        let observer = Observer {
            store: self.store.clone(),
            keys: self.all_keys(),
            wanted: self.all_keys(),
            refresh: self.refresh,
            pauses: self.pauses(),
            watch: None,
            reading: None,
            gone: None,
            newest: Revision(0),
            old_reads: 0,
            started: false,
        };
        futures::stream::unfold(observer, |mut observer| async move {
            let observation = observer.next().await;
            Some((observation, observer))
        })
        .boxed()
    }

    async fn standing(&self, key: Bytes) -> Result<Standing, StoreError> {
        let challenge_key = self.challenge_key_of(&key);
        let read = [key, challenge_key].map(|key| Range::all(Keys::One(key)));
        let mut answers = self.store.ranges(read.to_vec()).await?.into_iter();
        let (Some(lock), Some(record)) = (answers.next(), answers.next()) else {
            return Err(StoreError::refused("inconsistent read: fewer results than ranges"));
        };
        Ok(Standing {
            revision: lock.revision,
            created: lock.kvs.first().map(|kv| kv.create_revision),
            record: record.kvs.into_iter().next().map(|kv| StoredRecord {
                value: kv.value,
                mod_revision: kv.mod_revision,
            }),
        })
    }

    async fn put_record(
        &self,
        guard: RecordGuard,
        lease: Option<LeaseId>,
        record: ChallengeRecord,
    ) -> Result<Option<Revision>, StoreError> {
        let put = Op::Put {
            key: self.challenge_key_of(&guard.key),
            value: record.to_string().into(),
            lease,
        };
        let answer = self.store.txn(Txn::when(self.guard(&guard)).then(vec![put])).await?;
        Ok(answer.succeeded.then_some(answer.revision))
    }

    async fn depose(&self, guard: RecordGuard) -> Result<bool, StoreError> {
        let mut conditions = self.guard(&guard);
        if failpoint::on(failpoint::DEPOSES_WITHOUT_COMPARE) {
            conditions.remove(1);
        }
        if failpoint::on(failpoint::DEPOSES_UNQUEUED) {
            conditions.truncate(2);
        }
        let txn = Txn::when(conditions).then(self.delete_both(&guard.key));
        Ok(self.store.txn(txn).await?.succeeded)
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        self.store.time_to_live(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }

    fn check(&self, ttl: Duration) -> Result<(), ElectorError> {
        settings::check_prefix(&self.prefix)?;
        settings::check_refresh(self.refresh, ttl)
    }

    fn key_in_store(&self, key: &Bytes) -> Bytes {
        self.store.key_in_store(key)
    }
}

/// Pauses after a transient failure; returns a final one.
async fn pause_unless_final(error: StoreError, pauses: &mut Backoff) -> Result<(), StoreError> {
    match error {
        StoreError::LeaseNotFound { .. } | StoreError::Refused { .. } => Err(error),
        // `Unreachable`, `Unknown`, `NoQuorum`, `Compacted`, and what the store may add.
        _ => {
            debug!(%error, "campaign call failed, retrying");
            tokio::time::sleep(pauses.failed()).await;
            Ok(())
        }
    }
}

/// Reads the leader, and reads again after each watch event and each refresh interval.
///
/// The watch triggers a read: each leader comes from a linearizable read. So a batch with puts of several candidates, a
/// compaction, or a gap between two watches cannot report a wrong leader. The watch alone reports only that the
/// leader's key is gone, if the read takes long: a member that was cut off or stopped delivers events before it answers
/// reads.
struct Observer<S: ?Sized> {
    store: Arc<S>,
    keys: Keys,
    /// The keys to watch: the leader's key, or all keys while there is no leader.
    wanted: Keys,
    refresh: Duration,
    pauses: Backoff,
    watch: Option<Watched>,
    /// The read in progress.
    reading: Option<BoxFuture<'static, Result<RangeResult, StoreError>>>,
    /// The leader's key was deleted at this revision, and that is not reported yet.
    gone: Option<Revision>,
    newest: Revision,
    /// The number of consecutive reads with an old revision.
    old_reads: u32,
    started: bool,
}

struct Watched {
    keys: Keys,
    changes: WatchStream,
}

impl<S: Store + ?Sized> Observer<S> {
    async fn next(&mut self) -> Observation {
        if self.started && self.reading.is_none() {
            self.aim_watch().await;
            self.wait_for_change().await;
        }
        let Some(gone) = self.gone.take() else {
            return self.read().await;
        };
        tokio::select! {
            biased;
            observation = self.read() => observation,
            () = tokio::time::sleep(SUCCESSOR_TIMEOUT) => {
                self.newest = self.newest.max(gone);
                Observation { revision: gone, leader: None }
            }
        }
    }

    /// Reads the leader until that succeeds. Cancel safe: the next call continues the read.
    async fn read(&mut self) -> Observation {
        loop {
            let reading = self.reading.get_or_insert_with(|| {
                let (store, oldest) = (self.store.clone(), Range::oldest(self.keys.clone()));
                Box::pin(async move { store.range(oldest).await })
            });
            let read = reading.await;
            self.reading = None;
            match read {
                // Reads are linearizable, so the revision decreases only if the store itself went back.
                Ok(read) if read.revision >= self.newest || self.old_reads + 1 >= MAX_OLD_READS => {
                    self.pauses.succeeded();
                    self.started = true;
                    self.old_reads = 0;
                    if read.revision < self.newest {
                        // Revisions are reused, so watch again.
                        self.watch = None;
                    }
                    self.newest = read.revision;
                    let leader = read.kvs.into_iter().next().map(candidate);
                    // The watch is opened after the observation is reported, so that the observation is not delayed.
                    self.wanted = match &leader {
                        Some(leader) => Keys::One(leader.key.clone()),
                        None => self.keys.clone(),
                    };
                    return Observation {
                        revision: read.revision,
                        leader,
                    };
                }
                Ok(read) => {
                    debug!(at = %read.revision, newest = %self.newest, "store answered with an old revision");
                    self.old_reads += 1;
                    tokio::time::sleep(self.pauses.failed()).await;
                }
                Err(error) => {
                    debug!(%error, "observer read failed, retrying");
                    self.watch = None;
                    tokio::time::sleep(self.pauses.failed()).await;
                }
            }
        }
    }

    /// Opens the watch on the wanted keys, from the revision of the last read on.
    async fn aim_watch(&mut self) {
        let keys = self.wanted.clone();
        if self.watch.as_ref().is_some_and(|watched| watched.keys == keys) {
            return;
        }
        match self.store.watch(keys.clone(), self.newest.next()).await {
            Ok(changes) => self.watch = Some(Watched { keys, changes }),
            Err(error) => {
                // Without a watch the next read follows after a pause.
                debug!(%error, "observer cannot open a watch");
                self.watch = None;
            }
        }
    }

    async fn wait_for_change(&mut self) {
        let Some(watched) = &mut self.watch else {
            tokio::time::sleep(self.pauses.failed()).await;
            return;
        };
        let change = async {
            loop {
                match watched.changes.next().await {
                    Some(Ok(batch)) if batch.events.is_empty() => {}
                    Some(Ok(batch)) => return Some(batch.events),
                    Some(Err(_)) | None => return None,
                }
            }
        };
        match tokio::time::timeout(self.refresh, change).await {
            Ok(Some(events)) if matches!(watched.keys, Keys::One(_)) => {
                self.gone = events.iter().rev().find_map(|event| match event {
                    Event::Delete { revision, .. } => Some(*revision),
                    Event::Put(_) => None,
                });
            }
            Ok(None) => self.watch = None,
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

fn first_kv(answer: TxnResult) -> Option<KeyValue> {
    match answer.results.into_iter().next() {
        Some(OpResult::Range { kvs, .. }) => kvs.into_iter().next(),
        _ => None,
    }
}

fn candidate(kv: KeyValue) -> Candidate {
    Candidate {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        lease: kv.lease,
    }
}

#[cfg(test)]
mod tests;
