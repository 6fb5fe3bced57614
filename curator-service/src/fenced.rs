//! The leader's one way to the cluster's state: transactions that only take place in its own term.

use std::sync::Arc;

use curator_election::Term;
use curator_election::store::{Compare, KeyValue, Op, OpResult, Range, Revision, Store, StoreError, Txn};

/// The state, as one term of leadership may use it. Everything that goes through it is one transaction under the guard that
/// the lock key is still the one that the term began with.
#[derive(Clone)]
pub struct Fenced {
    store: Arc<dyn Store>,
    term: Term,
}

/// Why an access was not made, or is not known to have been.
#[derive(Debug, thiserror::Error)]
pub enum FencedError {
    /// The term has ended: nothing was done.
    #[error("this instance does not lead any more")]
    LostLeadership,
    /// The store did not do it, or did not say. [`StoreError::Unknown`] alone leaves open whether a write took place.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store answered something else than it was asked.
    #[error("the store gave {got} answers to {asked} operations, or of another kind")]
    Answer {
        /// How many operations there were.
        asked: usize,
        /// How many answers.
        got: usize,
    },
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The state's revision at that moment, the same for all ranges of one read.
    pub revision: Revision,
    /// The keys and values of each range, in the order in which they were asked for.
    pub ranges: Vec<Vec<KeyValue>>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// All of it was done, at this revision.
    Done(Revision),
    /// A condition did not hold, and nothing was done: somebody else was there first.
    Conflict,
}

impl Fenced {
    /// The state in this store, for this term.
    pub fn new(store: Arc<dyn Store>, term: Term) -> Self {
        Self { store, term }
    }

    /// The term that it is for.
    #[must_use]
    pub const fn term(&self) -> &Term {
        &self.term
    }

    /// Reads all of these ranges at one moment. It sees every write that was acknowledged before it began.
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
        // Without conditions of our own only the guard can fail, and it has not.
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
        match ranges.len() == asked {
            true => Ok(Read { revision, ranges }),
            false => Err(FencedError::Answer { asked, got }),
        }
    }

    /// Does all of this, if all conditions hold; else nothing.
    ///
    /// Cancellation: whether it was done is not known then.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer; after [`StoreError::Unknown`] it may have been done.
    pub async fn write(&self, conditions: Vec<Compare>, ops: Vec<Op>) -> Result<Written, FencedError> {
        Ok(match self.run(conditions, ops).await? {
            Some((revision, _)) => Written::Done(revision),
            None => Written::Conflict,
        })
    }

    /// `None` if a condition other than the guard did not hold.
    async fn run(
        &self,
        mut conditions: Vec<Compare>,
        ops: Vec<Op>,
    ) -> Result<Option<(Revision, Vec<OpResult>)>, FencedError> {
        // No need to ask the store what the clock says already.
        self.term.check().map_err(|_| FencedError::LostLeadership)?;
        conditions.push(self.term.guard());
        // Which of the conditions failed the store does not say; the lock key, read at the same moment, does.
        let look = vec![Op::get(self.term.lock_key().clone())];
        let done = self.store.txn(Txn::when(conditions).then(ops).or_else(look)).await?;
        if done.succeeded {
            return Ok(Some((done.revision, done.results)));
        }
        let holds = match done.results.first() {
            Some(OpResult::Range { kvs, .. }) => kvs
                .first()
                .is_some_and(|lock| lock.create_revision == self.term.lock_revision()),
            _ => false,
        };
        if holds {
            return Ok(None);
        }
        self.term.report_fenced_out();
        Err(FencedError::LostLeadership)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use curator_election::TermKeeper;
    use curator_election::clock::{Clock, TokioClock};
    use curator_election::memory::MemoryCluster;
    use curator_election::store::Keys;

    use super::*;

    const LOCK: &str = "/leader/a";

    /// A store with a lock key, and the term that it makes.
    async fn leading() -> (Arc<dyn Store>, Fenced, TermKeeper) {
        let store: Arc<dyn Store> = Arc::new(MemoryCluster::new(1).client(0));
        let revision = put(&store, LOCK, "me").await;
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(3_600);
        let (keeper, term) = Term::for_test(LOCK, revision, until, clock);
        (store.clone(), Fenced::new(store, term), keeper)
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
        let (_, fenced, _keeper) = leading().await;
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
        let (store, fenced, _keeper) = leading().await;
        let only_once = || fenced.write(vec![Compare::absent("/a")], vec![Op::put("/a", "1")]);
        assert!(matches!(only_once().await.expect("leads"), Written::Done(_)));
        assert_eq!(only_once().await.expect("leads"), Written::Conflict);
        assert!(fenced.term().is_valid());
        assert_eq!(value(&store, "/a").await.as_deref(), Some(b"1".as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_lock_key_nothing_is_read_or_written_and_the_term_ends() {
        for write in [true, false] {
            let (store, fenced, _keeper) = leading().await;
            // The lease ran out, and the instance has not noticed.
            store
                .txn(Txn::default().then(vec![Op::delete(LOCK)]))
                .await
                .expect("no faults");
            let error = match write {
                true => fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await.map(drop),
                false => fenced.read(vec![Range::all(Keys::one("/a"))]).await.map(drop),
            };
            assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
            assert_eq!(value(&store, "/a").await, None);
            assert!(!fenced.term().is_valid(), "the elector learns of it");
        }
    }

    /// The same node is elected again, under the same key: work of the old term is not that of the new one.
    #[tokio::test(start_paused = true)]
    async fn the_lock_key_of_another_term_is_not_the_own_one() {
        let (store, fenced, _keeper) = leading().await;
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
    async fn an_ended_term_does_not_even_ask() {
        let (store, fenced, keeper) = leading().await;
        keeper.end();
        let error = fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await;
        assert!(matches!(error, Err(FencedError::LostLeadership)), "{error:?}");
        assert_eq!(value(&store, "/a").await, None);
    }
}
