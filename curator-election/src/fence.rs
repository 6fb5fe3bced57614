//! Fenced access to state in the store: every transaction is executed only within its own term.
//!
//! ```
//! # #[cfg(not(feature = "testing"))] fn main() {}
//! # #[cfg(feature = "testing")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use curator_election::fence::{Fenced, Written};
//! use curator_election::memory::MemoryCluster;
//! use curator_election::store::{Compare, Op};
//! # use curator_election::{ElectionBackend, StoreElection, Term};
//! # use curator_election::clock::{Clock, TokioClock};
//! # use std::time::Duration;
//!
//! // The store of the election, with the same namespace: the guard compares the lock key in it.
//! let store = Arc::new(MemoryCluster::new(1).client(0));
//! # let backend = StoreElection::new(store.clone(), "/leader", Duration::from_secs(2));
//! # let lease = backend.grant(Duration::from_secs(6)).await?;
//! # let elected = backend.campaign(lease.id, "me".into(), None).await?;
//! # let clock = Arc::new(TokioClock::new());
//! # let until = clock.now() + Duration::from_secs(5);
//! # let (_owner, term) = Term::for_test(elected.key, elected.revision, until, clock);
//! let state = Fenced::new(store, term);
//! let written = state.write(vec![Compare::absent("/jobs/1")], vec![Op::put("/jobs/1", "mine")]).await?;
//! assert!(matches!(written, Written::Done(_)));
//! # Ok(())
//! # }
//! ```
//!
//! There is no fenced access without a term, and a term is made by the election alone:
//!
//! ```compile_fail,E0061
//! # use std::sync::Arc;
//! use curator_election::fence::Fenced;
//! # fn store() -> Arc<dyn curator_election::store::Store> { unimplemented!() }
//! let state = Fenced::new(store());
//! ```
//!
//! ```compile_fail,E0624
//! use curator_election::Term;
//! let term = Term::begin;
//! ```

mod reserved;
mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, debug, debug_span};

use crate::failpoint;
use crate::pages::Pages;
use crate::store::{
    Compare, Event, KeyValue, Keys, Op, OpResult, Range, RefusalKind, Revision, Store, StoreError, Txn, TxnResult,
    WatchStream,
};
use crate::term::{Term, Validity, WentBack};

use witness::{Witness, Write};

/// The state within one term. Every access is one transaction under the guard that the lock key is still the one of the
/// term.
#[derive(Clone)]
pub struct Fenced {
    store: Arc<dyn Store>,
    term: Term,
    newest: Newest,
    witness: Witness,
}

/// The newest revision that the store has returned in this term. Clones share it.
///
/// etcd's reads and transactions are linearizable: a request that is sent after a revision was seen returns that
/// revision or a later one. Otherwise the store has lost data, as when a backup is restored, and the view is invalid.
#[derive(Clone, Debug, Default)]
struct Newest(Arc<AtomicI64>);

impl Newest {
    /// The minimum revision of replies to requests that are sent from now on.
    fn floor(&self) -> Revision {
        Revision(self.0.load(Ordering::Acquire))
    }

    fn saw(&self, revision: Revision) {
        self.0.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Records the revision of a reply to a request that was sent when the newest was `floor`.
    fn answered(&self, floor: Revision, found: Revision) -> Result<(), WentBack> {
        if found < floor {
            return Err(WentBack { seen: floor, found });
        }
        self.saw(found);
        Ok(())
    }
}

/// The target of etcd request spans. A span belongs to the call that the request is made for, or to the first that
/// shares it.
pub const TRACED: &str = "curator::etcd";

/// Why an access failed, or why its outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FencedError {
    /// The term has ended: nothing was done.
    #[error("this instance is no longer the leader")]
    LostLeadership,
    /// The store failed or did not answer. Only [`StoreError::Unknown`] leaves open whether a write took place.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A write to the keys of the election: nothing was sent. A data key there is the key of a candidate that never
    /// leaves: it leads for ever once it is the oldest.
    #[error(
        "the write to {key:?} was not sent: the keys below {} belong to the election: keep data outside",
        String::from_utf8_lossy(reserved)
    )]
    Reserved {
        /// The first key of the operation.
        key: Bytes,
        /// The prefix of the election's keys.
        reserved: Bytes,
    },
    /// The store's reply does not match the request.
    #[error("the store's reply does not match the request: {got} results for {asked} operations")]
    Answer {
        /// The number of operations in the request.
        asked: usize,
        /// The number of results in the reply.
        got: usize,
    },
}

/// The result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The store's revision at the time of the read, the same for all ranges.
    pub revision: Revision,
    /// The keys and values of each range, in the order of the request.
    pub ranges: Vec<Vec<KeyValue>>,
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// The write is committed, at this revision.
    Done(Revision),
    /// A condition failed and nothing was done: another writer was first.
    Conflict,
}

/// One write of a batch: it is committed if its conditions hold, otherwise nothing is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The conditions.
    pub conditions: Vec<Compare>,
    /// The operations, if the conditions hold.
    pub ops: Vec<Op>,
}

/// The outcome of one [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The change is committed, at this revision.
    Done(Revision),
    /// A condition failed, and nothing was done. Returns the keys of the conditions.
    Conflict {
        /// The store's revision at that time.
        revision: Revision,
        /// The value of each key; `None` if it does not exist.
        found: Vec<(Bytes, Option<KeyValue>)>,
    },
}

impl Change {
    /// The single keys that the conditions compare.
    fn conditional_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.conditions.iter().filter_map(|condition| match &condition.keys {
            Keys::One(key) => Some(key),
            Keys::Range { .. } => None,
        })
    }

    fn look(&self) -> impl Iterator<Item = Op> {
        self.conditional_keys().cloned().map(Op::get)
    }

    fn conflict(&self, revision: Revision, results: &[OpResult]) -> Outcome {
        let found = self
            .conditional_keys()
            .cloned()
            .zip(results)
            .map(|(key, result)| (key, first(result)))
            .collect();
        Outcome::Conflict { revision, found }
    }
}

fn first(result: &OpResult) -> Option<KeyValue> {
    match result {
        OpResult::Range { kvs, .. } => kvs.first().cloned(),
        OpResult::Put | OpResult::Deleted(_) | OpResult::Txn { .. } => None,
    }
}

/// How long an access is tried again at least while the term is valid; then until the term is confirmed once more. A
/// store that confirms the term and does not answer accesses is not waited for.
const MIN_PATIENCE: Duration = Duration::from_secs(1);
/// The wait before such a try.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// Repeats an access that the store did not answer, if that does no harm.
///
/// A term with a failover limit is suspended when the store does not answer, and an access waits until it is resumed.
/// An access that has failed shortly before that waits as well.
#[derive(Default)]
struct Patience {
    /// When the access first failed in a valid term, and until when the term was confirmed then.
    since: Option<(Instant, Option<crate::clock::Instant>)>,
}

impl Patience {
    /// Whether to try again after this error. A write whose outcome is unknown is never repeated.
    async fn try_again(&mut self, term: &Term, error: &StoreError, writes: bool) -> bool {
        if !error.is_outage() || term.confirmed_until().is_none() || (writes && !error.never_ran()) {
            return false;
        }
        match term.validity() {
            Validity::Ended => false,
            // The caller waits for the end of the suspension, which is bounded.
            Validity::Suspended => {
                self.since = None;
                true
            }
            Validity::Valid => {
                let confirmed = term.confirmed_until();
                let (since, before) = *self.since.get_or_insert_with(|| (Instant::now(), confirmed));
                tokio::time::sleep(TRY_INTERVAL).await;
                since.elapsed() < MIN_PATIENCE || confirmed == before
            }
        }
    }
}

impl Fenced {
    /// The state in a store, for a term. The store must be that of the election, with the same namespace: in any other
    /// the lock key does not exist, and the first access ends the term.
    pub fn new(store: Arc<dyn Store>, term: Term) -> Self {
        Self {
            store,
            term,
            newest: Newest::default(),
            witness: Witness::default(),
        }
    }

    /// The term.
    #[must_use]
    pub const fn term(&self) -> &Term {
        &self.term
    }

    /// Reads the ranges at one revision. The read sees every write that was acknowledged before it began.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer.
    pub async fn read(&self, ranges: Vec<Range>) -> Result<Read, FencedError> {
        let asked = ranges.len();
        let done = self
            .run(Vec::new(), ranges.into_iter().map(Op::Range).collect())
            .await?;
        // There are no other conditions, so only the guard can fail, and it did not.
        let Some((revision, results)) = done else {
            return Err(FencedError::LostLeadership);
        };
        let got = results.len();
        let ranges: Vec<_> = results
            .into_iter()
            .filter_map(|result| match result {
                OpResult::Range { kvs, .. } => Some(kvs),
                OpResult::Put | OpResult::Deleted(_) | OpResult::Txn { .. } => None,
            })
            .collect();
        if ranges.len() == asked {
            Ok(Read { revision, ranges })
        } else {
            Err(FencedError::Answer { asked, got })
        }
    }

    /// Reads ranges of any size page by page, as of one revision, which it returns. `visit` gets each page in order.
    /// Each page is read within the term, and the first sees every write that was acknowledged before it began.
    ///
    /// Cancellation safe, except for the visited pages.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer; [`StoreError::Compacted`] if the revision was compacted
    /// meanwhile. The pages visited so far are incomplete.
    pub async fn read_pages(
        &self,
        ranges: impl IntoIterator<Item = Keys> + Send,
        mut visit: impl FnMut(Vec<KeyValue>) + Send,
    ) -> Result<Revision, FencedError> {
        let mut pages = Pages::new(ranges);
        while let Some(page) = pages.next() {
            match self.read(vec![page]).await {
                Ok(read) => {
                    let found = read.ranges.into_iter().next().unwrap_or_default();
                    pages.answered(read.revision, &found);
                    visit(found);
                }
                Err(FencedError::Store(error))
                    if error.refusal() == Some(RefusalKind::TooLarge) && pages.too_large() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pages.revision())
    }

    /// Proves that the term still holds: no other leader has written before the call began. Returns the store's
    /// revision.
    ///
    /// It is a linearizable read of the lock key, so it is as cheap as any read and is retried on another member if one
    /// hangs. The key's create revision proves the same as a transaction with the guard.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer.
    pub async fn fence(&self) -> Result<Revision, FencedError> {
        let lock = Range {
            limit: 1,
            keys_only: true,
            ..Range::all(Keys::one(self.term.lock_key().clone()))
        };
        let span = debug_span!(target: TRACED, "fence", lock_revision = self.term.lock_revision().0);
        let mut patience = Patience::default();
        let (floor, found) = loop {
            self.term.valid().await.map_err(|_| FencedError::LostLeadership)?;
            let floor = self.newest.floor();
            match self.store.range(lock.clone()).instrument(span.clone()).await {
                Err(error) if patience.try_again(&self.term, &error, false).await => {}
                found => break (floor, found?),
            }
        };
        self.answered();
        match found.kvs.first() {
            Some(lock) if lock.create_revision == self.term.lock_revision() => {}
            _ => {
                self.term.report_fenced_out();
                return Err(FencedError::LostLeadership);
            }
        }
        if let Err(went_back) = self.newest.answered(floor, found.revision)
            && !failpoint::on(failpoint::IGNORES_STORE_GONE_BACK)
        {
            self.term.report_went_back(went_back);
            return Err(FencedError::LostLeadership);
        }
        self.is_same_store().await?;
        Ok(found.revision)
    }

    /// Watches keys from a revision until the term ends: the only access that is not a transaction. Its events are
    /// true, but do not prove that the term still holds.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer.
    pub async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, FencedError> {
        if self.term.has_ended() {
            return Err(FencedError::LostLeadership);
        }
        let term = self.term.clone();
        let changes = self.store.watch(keys, from).await?;
        let lock = self.term.clone();
        let newest = self.newest.clone();
        let changes = changes.inspect(move |batch| {
            if let Ok(batch) = batch {
                newest.saw(batch.revision);
            }
            let gone = |event: &Event| matches!(event, Event::Delete { key, .. } if key == lock.lock_key());
            if batch.as_ref().is_ok_and(|batch| batch.events.iter().any(gone)) {
                lock.report_fenced_out();
            }
        });
        Ok(changes.take_until(async move { term.ended().await }).boxed())
    }

    /// Executes the operations if all conditions hold, otherwise nothing.
    ///
    /// Cancellation: the write may or may not be made.
    ///
    /// # Errors
    /// The term has ended, an operation writes a key of the election, or the store does not answer. After
    /// [`StoreError::Unknown`] the write may have been made.
    pub async fn write(&self, conditions: Vec<Compare>, ops: Vec<Op>) -> Result<Written, FencedError> {
        Ok(match self.run(conditions, ops).await? {
            Some((revision, _)) => Written::Done(revision),
            None => Written::Conflict,
        })
    }

    /// Executes all changes in one transaction, each under its own conditions. Returns the outcome of each.
    ///
    /// The store evaluates all conditions before it executes anything. So no change may have a condition on a key that
    /// another change writes, and no two changes may write one key: then the outcome is that of any sequential order.
    ///
    /// Cancellation: any of the changes may have been made.
    ///
    /// # Errors
    /// The term has ended, an operation writes a key of the election, or the store does not answer. After
    /// [`StoreError::Unknown`] any of the changes may have been made.
    pub async fn write_all(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, FencedError> {
        // A single change is not nested, which is cheaper for the store.
        if let [change] = &changes[..] {
            return Ok(vec![self.write_one(change).await?]);
        }
        let asked = changes.len();
        let nested = changes
            .iter()
            .map(|change| {
                Op::Txn(
                    Txn::when(change.conditions.clone())
                        .then(change.ops.clone())
                        .or_else(change.look().collect()),
                )
            })
            .collect();
        // Without conditions besides the guard there is no conflict.
        let Some((revision, results)) = self.run(Vec::new(), nested).await? else {
            return Err(FencedError::LostLeadership);
        };
        let outcomes: Vec<_> = changes
            .iter()
            .zip(&results)
            .filter_map(|(change, result)| match result {
                OpResult::Txn { succeeded: true, .. } => Some(Outcome::Done(revision)),
                OpResult::Txn { results, .. } => Some(change.conflict(revision, results)),
                OpResult::Range { .. } | OpResult::Put | OpResult::Deleted(_) => None,
            })
            .collect();
        if outcomes.len() == asked {
            Ok(outcomes)
        } else {
            Err(FencedError::Answer {
                asked,
                got: outcomes.len(),
            })
        }
    }

    async fn write_one(&self, change: &Change) -> Result<Outcome, FencedError> {
        let done = self
            .guarded(change.conditions.clone(), change.ops.clone(), change.look())
            .await?;
        Ok(if done.succeeded {
            Outcome::Done(done.revision)
        } else {
            change.conflict(done.revision, done.results.get(1..).unwrap_or_default())
        })
    }

    /// `None` if a condition other than the guard failed.
    async fn run(
        &self,
        conditions: Vec<Compare>,
        ops: Vec<Op>,
    ) -> Result<Option<(Revision, Vec<OpResult>)>, FencedError> {
        let done = self.guarded(conditions, ops, std::iter::empty()).await?;
        Ok(done.succeeded.then_some((done.revision, done.results)))
    }

    /// The number of interruptions of the term: of suspensions, and without a failover limit of silences of the store.
    fn interruptions(&self) -> u64 {
        match self.term.confirmed_until() {
            Some(_) => self.term.resumptions(),
            None => self.witness.silences(),
        }
    }

    /// The store has answered an access of the term.
    fn answered(&self) {
        if self.term.confirmed_until().is_none() {
            self.witness.answered(self.term.now());
        }
    }

    /// Checks after an interruption of the term that the store still has the term's newest write. Answers from before
    /// the check do not count.
    async fn is_same_store(&self) -> Result<(), FencedError> {
        if failpoint::on(failpoint::IGNORES_STORE_GONE_BACK) {
            return Ok(());
        }
        loop {
            // An answer that is late by a whole suspension may be that of another store.
            if self
                .term
                .confirmed_until()
                .is_some_and(|until| self.term.now() >= until)
            {
                self.term.valid().await.map_err(|_| FencedError::LostLeadership)?;
            }
            let interruptions = self.interruptions();
            let writes = self.witness.to_check(interruptions);
            if writes.is_empty() {
                return Ok(());
            }
            for write in &writes {
                if !self.store_has(write).await? {
                    let (seen, found) = (write.revision, Revision(write.revision.0 - 1));
                    self.term.report_went_back(WentBack { seen, found });
                    return Err(FencedError::LostLeadership);
                }
            }
            self.witness.checked(interruptions, &writes);
        }
    }

    /// Whether a write is in the history of the store. If that is compacted, whether nothing speaks against it.
    async fn store_has(&self, write: &Write) -> Result<bool, FencedError> {
        let mut patience = Patience::default();
        loop {
            self.term.valid().await.map_err(|_| FencedError::LostLeadership)?;
            let has = match self.store.range(write.look_up()).await {
                Ok(found) => Ok(write.is_in(&found.kvs)),
                Err(StoreError::Compacted { .. }) => {
                    let found = self.store.range(write.current()).await;
                    found.map(|found| write.may_be_in(&found.kvs))
                }
                Err(error) => Err(error),
            };
            match has {
                Err(error) if patience.try_again(&self.term, &error, false).await => {}
                has => return Ok(has?),
            }
        }
    }

    /// The only place where the state is read and written by a transaction. A transaction that fails reads the lock key
    /// first, then the keys of `look`.
    async fn guarded(
        &self,
        mut conditions: Vec<Compare>,
        ops: Vec<Op>,
        look: impl Iterator<Item = Op>,
    ) -> Result<TxnResult, FencedError> {
        reserved::check(self.term.lock_key(), &ops)?;
        if !failpoint::on(failpoint::NO_GUARD) {
            conditions.push(self.term.guard());
        }
        let span = debug_span!(
            target: TRACED,
            "transaction",
            lock_revision = self.term.lock_revision().0,
            conditions = conditions.len(),
            operations = ops.len(),
            revision = Empty,
            outcome = Empty,
        );
        // The store does not tell which condition failed; the lock key, read at the same revision, does.
        let look = std::iter::once(Op::get(self.term.lock_key().clone())).chain(look);
        let txn = Txn::when(conditions).then(ops).or_else(look.collect());
        let writes = !txn.success.iter().all(|op| matches!(op, Op::Range(_)));
        let mut patience = Patience::default();
        let (floor, interruptions, done) = loop {
            // No need to send a request if the term has ended by the clock.
            self.term.valid().await.map_err(|_| FencedError::LostLeadership)?;
            let (floor, interruptions) = (self.newest.floor(), self.interruptions());
            let sent = async {
                debug!(target: TRACED, "sent");
                match self.store.txn(txn.clone()).await {
                    Err(StoreError::Unknown { .. }) if failpoint::on(failpoint::SENDS_LOST_WRITE_AGAIN) => {
                        self.store.txn(txn.clone()).await
                    }
                    done => done,
                }
            };
            match sent.instrument(span.clone()).await {
                Err(error) if patience.try_again(&self.term, &error, writes).await => {}
                done => break (floor, interruptions, done),
            }
        };
        span.in_scope(|| match &done {
            Ok(done) => {
                let outcome = if done.succeeded { "done" } else { "condition" };
                span.record("outcome", outcome).record("revision", done.revision.0);
                debug!(target: TRACED, "answered");
            }
            Err(error) => {
                span.record("outcome", "error");
                debug!(target: TRACED, %error, "failed");
            }
        });
        let done = done?;
        self.answered();
        if !done.succeeded {
            let lock = done.results.first().and_then(first);
            if lock.is_none_or(|lock| lock.create_revision != self.term.lock_revision()) {
                self.term.report_fenced_out();
                return Err(FencedError::LostLeadership);
            }
        }
        let Err(went_back) = self.newest.answered(floor, done.revision) else {
            let wrote = done
                .succeeded
                .then(|| Write::of(&txn.success, &done.results, done.revision))
                .flatten();
            let is_written = wrote.is_some();
            if let Some(write) = wrote {
                // In this order: the number is that of the validity.
                let since = self.term.is_valid().then(|| self.interruptions());
                self.witness.wrote(write, since.filter(|now| *now == interruptions));
            }
            // A write that was made is in the store, and its outcome says no more.
            if !is_written
                || done
                    .results
                    .iter()
                    .any(|result| matches!(result, OpResult::Txn { succeeded: false, .. }))
            {
                let same = self.is_same_store().await;
                same.map_err(|error| if is_written { unknown(&error) } else { error })?;
            }
            return Ok(done);
        };
        self.term.report_went_back(went_back);
        // The write is committed, but in a store that has gone back.
        Err(if done.succeeded && writes {
            StoreError::Unknown {
                reason: went_back.to_string(),
            }
            .into()
        } else {
            FencedError::LostLeadership
        })
    }
}

/// Some of the changes were made, and what the others were decided on may not be true.
fn unknown(error: &FencedError) -> FencedError {
    let reason = format!("the store may have lost data: {error}");
    StoreError::Unknown { reason }.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::{Clock, TokioClock};
    use crate::memory::MemoryCluster;
    use crate::store::Keys;
    use crate::term::TermOwner;

    use super::*;

    const LOCK: &str = "/leader/a";

    /// A store with a lock key, and the term that it makes.
    async fn leading() -> (Arc<dyn Store>, Fenced, TermOwner) {
        let store: Arc<dyn Store> = Arc::new(MemoryCluster::new(1).client(0));
        let revision = put(&store, LOCK, "me").await;
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(3_600);
        let (term_owner, term) = Term::for_test(LOCK, revision, until, clock);
        (store.clone(), Fenced::new(store, term), term_owner)
    }

    async fn put(store: &Arc<dyn Store>, key: &'static str, value: &'static str) -> Revision {
        let txn = Txn::default().then(vec![Op::put(key, value)]);
        store.txn(txn).await.expect("no faults").revision
    }

    async fn value(store: &Arc<dyn Store>, key: &'static str) -> Option<Vec<u8>> {
        let read = store.range(Range::all(Keys::one(key))).await.expect("no faults");
        read.kvs.first().map(|kv| kv.value.to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_writes_and_reads_what_it_wrote() {
        let (_, fenced, _term_owner) = leading().await;
        let Written::Done(revision) = fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await.expect("leads") else {
            panic!()
        };
        let ranges = vec![Range::all(Keys::one("/a")), Range::all(Keys::one("/b"))];
        let read = fenced.read(ranges).await.expect("leads");
        assert_eq!(read.revision, revision);
        assert_eq!(read.ranges[0][0].value.as_ref(), b"1");
        assert!(read.ranges[1].is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_is_no_loss_of_leadership() {
        let (store, fenced, _term_owner) = leading().await;
        let only_once = || fenced.write(vec![Compare::absent("/a")], vec![Op::put("/a", "1")]);
        assert!(matches!(only_once().await.expect("leads"), Written::Done(_)));
        assert_eq!(only_once().await.expect("leads"), Written::Conflict);
        assert!(fenced.term().is_valid());
        assert_eq!(value(&store, "/a").await.as_deref(), Some(b"1".as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_lock_key_nothing_is_read_or_written_and_the_term_ends() {
        for write in [true, false] {
            let (store, fenced, _term_owner) = leading().await;
            // The lease ran out, and the instance has not noticed.
            store
                .txn(Txn::default().then(vec![Op::delete(LOCK)]))
                .await
                .expect("no faults");
            let error = if write {
                fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await.map(drop)
            } else {
                fenced.read(vec![Range::all(Keys::one("/a"))]).await.map(drop)
            };
            assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
            assert_eq!(value(&store, "/a").await, None);
            assert!(!fenced.term().is_valid(), "the elector learns of it");
        }
    }

    /// The same node is elected again, under the same key: work of the old term is not that of the new one.
    #[tokio::test(start_paused = true)]
    async fn the_lock_key_of_another_term_is_not_the_own_one() {
        let (store, fenced, _term_owner) = leading().await;
        store
            .txn(Txn::default().then(vec![Op::delete(LOCK)]))
            .await
            .expect("no faults");
        put(&store, LOCK, "me").await;
        let error = fenced
            .write(vec![Compare::absent("/a")], vec![Op::put("/a", "1")])
            .await;
        assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
        assert_eq!(value(&store, "/a").await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_holds_for_its_own_term_alone() {
        let (store, fenced, _term_owner) = leading().await;
        let revision = put(&store, "/a", "1").await;
        assert_eq!(fenced.fence().await.expect("leads"), revision);
        let again = Txn::default().then(vec![Op::delete(LOCK)]);
        store.txn(again).await.expect("no faults");
        put(&store, LOCK, "me").await;
        let error = fenced.fence().await;
        assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
        assert!(!fenced.term().is_valid(), "the elector is told");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_share_a_transaction_and_each_has_its_own_outcome() {
        let (store, fenced, _term_owner) = leading().await;
        let at = put(&store, "/b", "0").await;
        let once = |key: &'static str| Change {
            conditions: vec![Compare::absent(key)],
            ops: vec![Op::put(key, "1")],
        };
        let outcomes = fenced
            .write_all(vec![once("/a"), once("/b"), once("/c")])
            .await
            .expect("leads");
        let [
            Outcome::Done(a),
            Outcome::Conflict { revision, found },
            Outcome::Done(c),
        ] = &outcomes[..]
        else {
            panic!("{outcomes:?}")
        };
        assert!(a == c && a == revision, "one transaction: {outcomes:?}");
        let (key, Some(kv)) = &found[0] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (key.as_ref(), kv.value.as_ref(), kv.mod_revision),
            (&b"/b"[..], &b"0"[..], at)
        );
        assert_eq!(value(&store, "/c").await.as_deref(), Some(b"1".as_slice()));
        // And one alone tells the same.
        let outcomes = fenced.write_all(vec![once("/a")]).await.expect("leads");
        assert!(
            matches!(
                &outcomes[..],
                [Outcome::Conflict { found, .. }] if found[0].1.as_ref().is_some_and(|kv| kv.value == "1")
            ),
            "{outcomes:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn none_of_the_changes_is_made_without_the_lock_key() {
        for count in [1, 3] {
            let (store, fenced, _term_owner) = leading().await;
            store
                .txn(Txn::default().then(vec![Op::delete(LOCK)]))
                .await
                .expect("no faults");
            let keys = ["/a", "/b", "/c"];
            let change = |key: &'static str| Change {
                conditions: Vec::new(),
                ops: vec![Op::put(key, "1")],
            };
            let error = fenced
                .write_all(keys[..count].iter().map(|key| change(key)).collect())
                .await;
            assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
            assert!(matches!(fenced.fence().await, Err(FencedError::LostLeadership)));
            assert_eq!(value(&store, "/a").await, None);
        }
    }

    /// A store that was set back while the lock key and its lease were there already.
    async fn set_back(cluster: &MemoryCluster) -> (Fenced, TermOwner) {
        let store: Arc<dyn Store> = Arc::new(cluster.client(0));
        let revision = put(&store, LOCK, "me").await;
        let backup = cluster.with_model(|model, _| model.snapshot());
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(3_600);
        let (term_owner, term) = Term::for_test(LOCK, revision, until, clock);
        let fenced = Fenced::new(store, term);
        for _ in 0..3 {
            let _ = fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await.expect("leads");
        }
        cluster.restore(backup);
        (fenced, term_owner)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_goes_back_ends_the_term_at_the_next_access() {
        let cluster = MemoryCluster::new(1);
        let (fenced, _term_owner) = set_back(&cluster).await;
        let error = fenced.fence().await;
        assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
        assert!(!fenced.term().is_valid());

        let cluster = MemoryCluster::new(1);
        let (fenced, _term_owner) = set_back(&cluster).await;
        let error = fenced.read(vec![Range::all(Keys::one("/a"))]).await;
        assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");

        // This one is in the store, and what it was decided on is not: nobody may take it for done, nor for not done.
        let cluster = MemoryCluster::new(1);
        let (fenced, _term_owner) = set_back(&cluster).await;
        let error = fenced.write(Vec::new(), vec![Op::put("/b", "1")]).await;
        let restored = |reason: &str| reason.contains("restored from a backup?");
        let unknown = matches!(&error, Err(FencedError::Store(StoreError::Unknown { reason })) if restored(reason));
        assert!(unknown, "{error:?}");
        assert!(!fenced.term().is_valid());

        // And this one was refused for what it was decided on.
        let cluster = MemoryCluster::new(1);
        let (fenced, _term_owner) = set_back(&cluster).await;
        let changed = vec![Compare::changed_at("/a", Revision(5))];
        let error = fenced.write(changed, vec![Op::put("/a", "2")]).await;
        assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
    }

    /// The simulation found it: while a leader is stopped, a backup is restored, and challenges of its term carry the
    /// restored store past the revision that it knows.
    #[tokio::test(start_paused = true)]
    async fn a_store_that_has_lost_a_write_ends_the_term_after_an_interruption() {
        const CONFIRMED: Duration = Duration::from_millis(900);
        let cases = [false, true].map(|restored| {
            [
                (restored, false, true),
                (restored, true, true),
                (restored, false, false),
            ]
        });
        for (restored, compacted, limited) in cases.into_iter().flatten() {
            let cluster = MemoryCluster::new(1);
            let store: Arc<dyn Store> = Arc::new(cluster.client(0));
            let revision = put(&store, LOCK, "me").await;
            let clock = Arc::new(TokioClock::new());
            let until = clock.now() + Duration::from_secs(3_600);
            let (owner, term) = Term::for_test(LOCK, revision, until, clock.clone());
            if limited {
                assert!(owner.confirm(clock.now() + CONFIRMED));
            }
            let fenced = Fenced::new(store.clone(), term);
            let read = || fenced.read(vec![Range::all(Keys::one("/a"))]);
            let _ = fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await.expect("leads");
            let backup = cluster.with_model(|model, _| model.snapshot());
            let _ = fenced.write(Vec::new(), vec![Op::put("/a", "2")]).await.expect("leads");
            if restored {
                cluster.restore(backup);
            }
            for _ in 0..3 {
                put(&store, "/elsewhere", "1").await;
            }
            if compacted {
                cluster
                    .with_model(|model, _| model.compact(model.revision()))
                    .expect("is newer");
            }
            tokio::time::advance(CONFIRMED).await;
            if limited {
                assert!(owner.confirm(clock.now() + CONFIRMED));
            }
            // What is written before the check is in the store, and hides nothing.
            let written = fenced.write(Vec::new(), vec![Op::put("/b", "1")]).await;
            assert!(matches!(written, Ok(Written::Done(_))), "{written:?}");
            let (found, fence) = (read().await, fenced.fence().await);
            if restored {
                assert!(matches!(found, Err(FencedError::LostLeadership)), "{found:?}");
                assert!(matches!(fence, Err(FencedError::LostLeadership)), "{fence:?}");
                assert!(owner.fenced_out().await.is_some(), "the elector learns why");
            } else {
                assert_eq!(found.expect("leads").ranges[0][0].value.as_ref(), b"2");
                assert!(fence.is_ok(), "{fence:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn write_to_a_key_of_the_election_is_refused_before_it_is_sent() {
        let (store, fenced, _term_owner) = leading().await;
        let nested = Op::Txn(Txn::default().or_else(vec![Op::put("/leader/data", "1")]));
        for op in [
            Op::put("/leader/data", "1"),
            Op::delete("/leader/b"),
            Op::Delete(Keys::prefix("/lead")),
            Op::Delete(Keys::Range {
                start: "/leader/z".into(),
                end: vec![0].into(),
            }),
            Op::put("/leader-challenge/data", "1"),
            nested,
        ] {
            let error = fenced.write(Vec::new(), vec![Op::put("/a", "1"), op.clone()]).await;
            assert!(matches!(&error, Err(FencedError::Reserved { .. })), "{op:?}: {error:?}");
            let change = || Change {
                conditions: Vec::new(),
                ops: vec![op.clone()],
            };
            let error = fenced.write_all(vec![change(), change()]).await;
            assert!(matches!(&error, Err(FencedError::Reserved { .. })), "{op:?}: {error:?}");
        }
        assert_eq!(value(&store, "/a").await, None);
        assert!(fenced.term().is_valid(), "the term is not at fault");
        // Keys beside the election, and reads of its own.
        let beside = [
            Op::put("/leader", "1"),
            Op::put("/leaders/1", "1"),
            Op::put("/leader0", "1"),
        ];
        assert!(matches!(
            fenced.write(Vec::new(), beside.into()).await,
            Ok(Written::Done(_))
        ));
        let read = fenced
            .read(vec![Range::all(Keys::prefix("/leader/"))])
            .await
            .expect("leads");
        assert_eq!(read.ranges[0].len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_term_does_not_even_ask() {
        let (store, fenced, term_owner) = leading().await;
        term_owner.end();
        let error = fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await;
        assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
        assert_eq!(value(&store, "/a").await, None);
    }
}
