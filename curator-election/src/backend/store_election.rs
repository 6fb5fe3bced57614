//! The election on a key-value store, as `go.etcd.io/etcd/client/v3/concurrency` lays it out, so that candidates of both
//! take part in one election.
//!
//! A candidate puts `<prefix>/<lease id in hex>` attached to its lease. Whoever's key has the lowest create revision leads;
//! each other one watches the key right before its own, so that a leader's end wakes one candidate and not all of them.
//! A leader may want a certain candidate to lead next, and says so in its value: a candidate of ours that stands right behind it
//! then queues up again, as the last one, if the other is behind it; and so does the next, until that other one is first.
//!
//! Beyond the Go library as well: the check that no older key is left also proves, in the same transaction, that the own key is
//! still there; a wait is looked after at intervals, so that a watch that went deaf does no harm; and a lost reply to the
//! put is found out by putting again, which the create-revision guard makes harmless.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tracing::debug;

use crate::backend::{CampaignError, Candidate, Elected, ElectionBackend, Observation};
use crate::backoff::Backoff;
use crate::failpoint;
use crate::store::{
    Compare, KeyValue, Keys, Lease, LeaseId, Op, OpResult, Ordering, Range, Revision, Sort, Store, StoreError, Target,
    Txn, TxnResult, WatchStream,
};
use crate::value::LeaderValue;

/// How long to pause after a failed call to the store: short at first, since many failures pass at once.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// After so many reads in a row from before the newest one, an observer takes it that the store has gone back.
const READS_FROM_THE_PAST: u32 = 3;

/// An election under a prefix of a [`Store`].
#[derive(Debug)]
pub struct StoreElection<S: ?Sized> {
    store: Arc<S>,
    prefix: String,
    refresh: Duration,
    seed: Option<u64>,
    transfer_to: Option<TransferTo>,
}

/// Reads from a leader's value which candidate it wants to lead next.
type TransferTo = fn(&[u8]) -> Option<Bytes>;

fn transfer_to<V: LeaderValue>(value: &[u8]) -> Option<Bytes> {
    let value = V::decode(value).ok()?;
    value.transfer_to().map(|key| Bytes::copy_from_slice(key.as_bytes()))
}

impl<S: Store + ?Sized> StoreElection<S> {
    /// The election under `prefix`, such as `/leader`; its keys start with the prefix and a slash.
    ///
    /// What is waited for is read afresh each `refresh`, whatever the watches say; observers get a sign of life as often.
    /// A third of the TTL is a good value.
    pub fn new(store: Arc<S>, prefix: impl Into<String>, refresh: Duration) -> Self {
        Self {
            store,
            prefix: prefix.into(),
            refresh,
            seed: None,
            transfer_to: None,
        }
    }

    /// Gives way to the candidate that a leader's value, which is a `V`, names as the next one. Without this a campaign keeps its
    /// place whatever a leader says.
    #[must_use]
    pub fn with_transfer<V: LeaderValue>(mut self) -> Self {
        self.transfer_to = Some(transfer_to::<V>);
        self
    }

    /// Draws the jitter of its pauses from a seed, so that a simulation can be repeated.
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

    fn pauses(&self) -> Backoff {
        // Each hasher is keyed differently; that is all that the jitter asks for.
        let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(&self.prefix));
        Backoff::new(PAUSE_FIRST, PAUSE_LONGEST, seed)
    }

    /// Puts the candidate's key, or finds the one that an earlier try with a lost reply has put. Returns the revision at
    /// which it was created.
    async fn queue(&self, key: &Bytes, lease: LeaseId, value: &Bytes) -> Result<Revision, StoreError> {
        let put = Op::Put {
            key: key.clone(),
            value: value.clone(),
            lease: Some(lease),
        };
        let txn = Txn::when(vec![Compare::absent(key.clone())])
            .then(vec![put])
            .or_else(vec![Op::get(key.clone())]);
        let answer = self.store.txn(txn).await?;
        if answer.succeeded {
            return Ok(answer.revision);
        }
        let Some(found) = first_kv(answer) else {
            return Err(StoreError::refused(
                "a key that exists was not found in one transaction",
            ));
        };
        if found.value == value {
            return Ok(found.create_revision);
        }
        // This lease has campaigned before with another value: proclaim the new one.
        let created = found.create_revision;
        match self.proclaim(key.clone(), created, lease, value.clone()).await? {
            true => Ok(created),
            false => Err(StoreError::LeaseNotFound { id: lease }),
        }
    }

    /// The candidate right before ours, or `Ok(None)` if we lead; proves at once that our key is still there.
    async fn predecessor(&self, key: &Bytes, own: Revision) -> Result<(Revision, Option<KeyValue>), CampaignError> {
        let read = Range {
            sort: Sort::CreateDescending,
            limit: 1,
            max_create_revision: Revision(own.0 - 1),
            ..Range::all(self.all_keys())
        };
        let mut still_there = vec![Compare::created_at(key.clone(), own)];
        if failpoint::on(failpoint::NO_RECHECK_OF_OWN_KEY) {
            still_there.clear();
        }
        let txn = Txn::when(still_there).then(vec![Op::Range(read)]);
        let answer = self.store.txn(txn).await?;
        if !answer.succeeded {
            return Err(CampaignError::KeyLost { key: key.clone() });
        }
        Ok((answer.revision, first_kv(answer)))
    }

    /// Leaves the queue, to join it again at its end, if the candidate right before ours wants one to lead next that is behind
    /// ours; returns whether it did. Who has done so is behind that one, and does not do it for it again.
    ///
    /// That the one before is the leader need not be asked: nobody else says such a thing, and it stands with the key.
    async fn give_way(&self, key: &Bytes, own: Revision, before: &KeyValue) -> Result<bool, StoreError> {
        let Some(next) = self.transfer_to.and_then(|read| read(&before.value)) else {
            return Ok(false);
        };
        let behind_ours = Compare {
            keys: Keys::One(next),
            ordering: Ordering::Greater,
            target: Target::CreateRevision(own),
        };
        let still_wanted = Compare::changed_at(before.key.clone(), before.mod_revision);
        let conditions = vec![Compare::created_at(key.clone(), own), still_wanted, behind_ours];
        let answer = self
            .store
            .txn(Txn::when(conditions).then(vec![Op::delete(key.clone())]))
            .await?;
        Ok(answer.succeeded)
    }

    /// Waits until `key` is deleted or has another value, the watch fails, or it is time to look again.
    async fn wait_for_change(&self, key: Bytes, from: Revision) -> Result<(), StoreError> {
        let wait = async {
            let mut changes = self.store.watch(Keys::One(key), from).await?;
            while let Some(batch) = changes.next().await {
                if !batch?.events.is_empty() {
                    return Ok(());
                }
            }
            Err(StoreError::Unknown {
                reason: "the watch was closed".into(),
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
        let txn = Txn::when(vec![Compare::changed_at(key.clone(), mod_revision)]).then(vec![Op::delete(key)]);
        Ok(self.store.txn(txn).await?.succeeded)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        self.store.keep_alive(lease, attempt).await
    }

    async fn campaign(&self, lease: LeaseId, value: Bytes) -> Result<Elected, CampaignError> {
        let key = self.key_of(lease);
        let mut pauses = self.pauses();
        let mut queued = None;
        loop {
            let revision = match queued {
                Some(revision) => revision,
                None => match self.queue(&key, lease, &value).await {
                    Ok(revision) => *queued.insert(revision),
                    Err(error) => {
                        pause_unless_final(error, &mut pauses).await?;
                        continue;
                    }
                },
            };
            let waited = match self.predecessor(&key, revision).await {
                Ok((won_at, None)) => return Ok(Elected { key, revision, won_at }),
                Ok((at, Some(before))) => match self.give_way(&key, revision, &before).await {
                    Ok(false) => self.wait_for_change(before.key, at.next()).await,
                    gone => {
                        // Or, if the answer was lost, perhaps not: queueing up finds that out.
                        queued = None;
                        gone.map(|_| debug!("queueing up again behind the one that the leader wants to be next"))
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
            newest: Revision(0),
            from_the_past: 0,
            started: false,
        };
        futures::stream::unfold(observer, |mut observer| async move {
            let observation = observer.next().await;
            Some((observation, observer))
        })
        .boxed()
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
}

/// Waits a little after a failure that may pass; hands back one that will not.
async fn pause_unless_final(error: StoreError, pauses: &mut Backoff) -> Result<(), StoreError> {
    match error {
        StoreError::LeaseNotFound { .. } | StoreError::Refused { .. } => Err(error),
        // `Unreachable`, `Unknown`, `NoQuorum`, `Compacted`, and what the store may add.
        _ => {
            debug!(%error, "the campaign pauses");
            tokio::time::sleep(pauses.failed()).await;
            Ok(())
        }
    }
}

/// Reads who leads, and reads again whenever a watch or the time says so.
///
/// The watch is only a bell: what is reported always comes from a linearizable read. So a batch with puts of several
/// candidates, a compaction, or a gap between two watches cannot name a wrong leader.
struct Observer<S: ?Sized> {
    store: Arc<S>,
    keys: Keys,
    /// What to watch: the leader's key, or all keys while there is none.
    wanted: Keys,
    refresh: Duration,
    pauses: Backoff,
    watch: Option<Watched>,
    newest: Revision,
    /// How many reads in a row were from before the newest.
    from_the_past: u32,
    started: bool,
}

struct Watched {
    keys: Keys,
    changes: WatchStream,
}

impl<S: Store + ?Sized> Observer<S> {
    async fn next(&mut self) -> Observation {
        if self.started {
            self.aim_watch().await;
            self.wait_for_news().await;
        }
        loop {
            match self.store.range(Range::oldest(self.keys.clone())).await {
                // Members answer linearizably, so an older revision is only seen if the store itself went back in time.
                Ok(read) if read.revision >= self.newest || self.from_the_past + 1 >= READS_FROM_THE_PAST => {
                    self.pauses.succeeded();
                    self.started = true;
                    self.from_the_past = 0;
                    if read.revision < self.newest {
                        // What is watched is to come once more.
                        self.watch = None;
                    }
                    self.newest = read.revision;
                    let leader = read.kvs.into_iter().next().map(candidate);
                    // The watch is set up after the news are told: they must not grow old meanwhile.
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
                    debug!(at = %read.revision, newest = %self.newest, "the store answered from its past");
                    self.from_the_past += 1;
                    tokio::time::sleep(self.pauses.failed()).await;
                }
                Err(error) => {
                    debug!(%error, "the observer pauses");
                    self.watch = None;
                    tokio::time::sleep(self.pauses.failed()).await;
                }
            }
        }
    }

    /// Watches what is wanted from what was last read on.
    async fn aim_watch(&mut self) {
        let keys = self.wanted.clone();
        if self.watch.as_ref().is_some_and(|watched| watched.keys == keys) {
            return;
        }
        match self.store.watch(keys.clone(), self.newest.next()).await {
            Ok(changes) => self.watch = Some(Watched { keys, changes }),
            Err(error) => {
                // Without a watch the next look is only as far away as the pause.
                debug!(%error, "the observer has no watch");
                self.watch = None;
            }
        }
    }

    async fn wait_for_news(&mut self) {
        let Some(watched) = &mut self.watch else {
            tokio::time::sleep(self.pauses.failed()).await;
            return;
        };
        let news = async {
            loop {
                match watched.changes.next().await {
                    Some(Ok(batch)) if batch.events.is_empty() => {}
                    Some(Ok(_)) => return true,
                    Some(Err(_)) | None => return false,
                }
            }
        };
        if let Ok(false) = tokio::time::timeout(self.refresh, news).await {
            self.watch = None;
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
