//! The leader's state: a view in memory, reads behind a shared fence, writes that share transactions.
//!
//! All of it is in the store, and reached through [`Fenced`] alone, for one term. For S3, that a read sees every write that was
//! acknowledged before it began, this holds:
//!
//! 1. Within the term nobody but this leader writes the state: all others' writes are under guards that do not hold any more.
//!    So the view begins with one fenced read, and what it lacks from then on is what this leader writes.
//! 2. A write is taken into the view before it is acknowledged, by [`Writer`].
//! 3. A read waits for a fence that was sent after it began ([`barrier`]). If the fence holds, the store carried it out within
//!    the term, so no other leader can have acknowledged anything before that, and 2 covers the rest.
//!
//! A write whose answer was lost may be in the store and not in the view. It is not acknowledged, so it may take its place among
//! the others when it shows: when the watch brings it, or when a condition does not hold because of it. Then it stays, because
//! no key in the view ever goes back to an older revision. What is written without a term (by `curator bootstrap`, or behind the
//! leader's back) the watch brings, too; a view that has no cluster in it is read afresh before anything is said of it.

mod barrier;
mod batch;
pub(crate) mod bootstrap;
pub(crate) mod export;
pub(crate) mod fenced;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod pki_layout;
pub(crate) mod record;
mod refusal;
pub(crate) mod tx;
pub(crate) mod view;
mod writer;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::failpoint;
use barrier::Barrier;
use bytes::Bytes;
use curator_election::store::{KeyValue, Keys, Op, Range, Revision};
use futures::StreamExt;
use limits::StateLimits;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};
use tx::Tx;
use view::View;
use writer::{WriteOutcome, Writer};

use crate::complaint::Complaint;
use crate::state::fenced::{Fenced, FencedError};
use crate::telemetry;

/// How long a decision is made again and again because others were faster, if its caller has that long.
const CONTENTION: Duration = Duration::from_secs(10);
/// Between attempts to read the state, or to watch it.
const RETRY: Duration = Duration::from_millis(100);

/// A read of the state that takes longer says how far it is, and again as often.
const PROGRESS: Duration = Duration::from_secs(2);

/// The state in one term.
pub(crate) struct State {
    fenced: Fenced,
    limits: StateLimits,
    view: RwLock<View>,
    /// The number of the newest change of a node.
    news: watch::Sender<u64>,
    ready: watch::Sender<bool>,
    barrier: Arc<Barrier>,
    writer: Writer,
    /// The end of the term, as one waiter for all has seen it: each wait for a term itself looks at the clock from time to time.
    over: CancellationToken,
    began: Instant,
}

/// Why the state could not be reached.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Fenced(#[from] FencedError),
    #[error("others have changed the same again and again: try once more")]
    Contended,
    #[error("the leader's term is over")]
    Over,
}

impl From<StateError> for Status {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::Fenced(FencedError::LostLeadership) | StateError::Over => Self::unavailable("lost leadership"),
            StateError::Fenced(FencedError::Store(store)) => refusal::told(store),
            StateError::Fenced(FencedError::Answer { .. }) => {
                static COMPLAINT: Complaint = Complaint::new();
                COMPLAINT.say(|left_out| warn!(%error, left_out, "the store cannot be used"));
                Self::unavailable("the cluster's store cannot be used: a change may have been made or not")
            }
            StateError::Contended => Self::unavailable(error.to_string()),
        }
    }
}

impl State {
    /// The state, for the term of `fenced`. Nothing is read before [`State::run`].
    pub(crate) fn new(fenced: Fenced, limits: StateLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            barrier: Arc::new(Barrier::new(fenced.clone())),
            fenced,
            view: RwLock::default(),
            news: watch::Sender::new(0),
            ready: watch::Sender::new(false),
            writer: Writer::default(),
            over: CancellationToken::new(),
            began: Instant::now(),
        })
    }

    /// Keeps the view, and writes what is waiting, until the term ends.
    pub(crate) async fn run(self: Arc<Self>) {
        // Also if this is dropped: whoever watches is told nothing more.
        let _over = self.over.clone().drop_guard();
        tokio::select! {
            biased;
            () = self.fenced.term().ended() => {}
            () = self.follow() => {}
            () = self.writer.run(&self) => {}
        }
        self.writer.close();
    }

    /// Reads the state as it is now: what was acknowledged before the call is in it. Cancellation safe.
    pub(crate) async fn read<T>(&self, read: impl FnOnce(&View) -> T) -> Result<T, StateError> {
        self.pass().await?;
        Ok(read(&self.view()))
    }

    /// Waits until the view has all that was acknowledged before the call. Cancellation safe.
    pub(crate) async fn pass(&self) -> Result<(), StateError> {
        self.ready().await?;
        if !failpoint::on(failpoint::NO_BARRIER) {
            self.barrier.pass().await?;
        }
        if self.view().get(keys::CLUSTER_CONFIGURATION.as_bytes()).is_none() && self.has_cluster().await? {
            self.refresh().await?;
        }
        Ok(())
    }

    /// Whether the store has a cluster at this moment. Only that is read: before there is one, whatever else is there may be large, and
    /// calls come again and again. Cancellation safe.
    async fn has_cluster(&self) -> Result<bool, StateError> {
        let mut found = false;
        let configuration = [Keys::one(keys::CLUSTER_CONFIGURATION)];
        self.fenced
            .read_pages(configuration, |page: Vec<KeyValue>| found |= !page.is_empty())
            .await?;
        Ok(found)
    }

    /// The view without a fence: what it shows may be of a moment ago, and is never taken back.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        // Nothing that holds the lock can panic half-way.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of the newest changes of nodes.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Completes when [`State::run`] has ended: with the term, or before.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(crate) const fn fenced(&self) -> &Fenced {
        &self.fenced
    }

    /// Reads, decides and writes, as one transaction: what `decide` has read is still so when it is written, or it decides
    /// anew. If it writes nothing, or refuses, that is because of what is so now.
    ///
    /// Cancellation: whether it was written is not known then.
    pub(crate) async fn transact<T>(
        &self,
        mut decide: impl FnMut(&mut Tx<'_>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.ready().await?;
        // A write needs no fence of its own: it takes place only if what it was decided on is still so.
        let mut fenced = false;
        let place = self.writer.place();
        let until = Instant::now() + CONTENTION;
        loop {
            let (decided, change) = {
                let view = self.view();
                let mut tx = Tx::new(&view);
                match (decide(&mut tx), tx.into_change()) {
                    (Ok(value), Some(change)) => match self.limits.check(&view, &change) {
                        Ok(()) => (Ok(value), Some(change)),
                        Err(refused) => (Err(refused), None),
                    },
                    decided => decided,
                }
            };
            match (decided, change) {
                (Ok(value), Some(change)) => match self.writer.write(place, change).await? {
                    WriteOutcome::Committed => return Ok(value),
                    WriteOutcome::Conflict if Instant::now() < until => {
                        debug!("decided on what is not so any more: once more");
                    }
                    WriteOutcome::Conflict => return Err(StateError::Contended.into()),
                },
                (decided, _) if fenced => return decided,
                _ => {
                    self.pass().await?;
                    fenced = true;
                }
            }
        }
    }

    /// Reads these keys into the view: those that it does not keep by itself. Cancellation safe.
    pub(crate) async fn load(&self, keys: &[Bytes]) -> Result<(), StateError> {
        let ranges = keys.iter().cloned().map(|key| Range::all(Keys::One(key))).collect();
        let read = self.fenced.read(ranges).await?;
        let mut view = self.view_mut();
        self.check(&view, read.ranges.iter().flatten(), read.revision)?;
        for (key, found) in keys.iter().zip(read.ranges) {
            match found.into_iter().next() {
                Some(kv) => view.put(kv.key, kv.value, kv.mod_revision),
                None => view.delete(key, read.revision),
            }
        }
        Ok(())
    }

    /// Reads everything afresh into the view. Cancellation safe.
    async fn refresh(&self) -> Result<Revision, StateError> {
        let ranges = keys::VIEWED.map(Keys::prefix);
        let (mut found, mut bytes, mut told) = (Vec::new(), 0, Instant::now());
        let read_at = self
            .fenced
            .read_pages(ranges, |page: Vec<KeyValue>| {
                bytes += page.iter().map(|kv| kv.key.len() + kv.value.len()).sum::<usize>();
                found.extend(page);
                if told.elapsed() >= PROGRESS {
                    told = Instant::now();
                    info!(keys = found.len(), bytes, "reading the state");
                }
            })
            .await?;
        {
            let mut view = self.view_mut();
            self.check(&view, &found, read_at)?;
            view.reset(found, read_at);
        }
        self.tell();
        Ok(read_at)
    }

    /// Whether the view has been read for the first time, and each change of it.
    pub(crate) fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Waits until the view has been read for the first time. Cancellation safe.
    pub(crate) async fn ready(&self) -> Result<(), StateError> {
        if *self.ready.borrow() {
            return Ok(());
        }
        let mut ready = self.ready.subscribe();
        tokio::select! {
            biased;
            // The sender is here.
            _ = ready.wait_for(|ready| *ready) => Ok(()),
            () = self.fenced.term().ended() => Err(StateError::Over),
        }
    }

    /// Keeps the view like the store, by one watch, from one read to the next if the watch breaks. Never returns.
    async fn follow(&self) {
        loop {
            match self.follow_once().await {
                Ok(()) => debug!("the watch of the state ended: reading afresh"),
                Err(error) => info!(%error, "the state cannot be followed: reading afresh"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_once(&self) -> Result<(), StateError> {
        let read_at = self.refresh().await?;
        if !self.ready.send_replace(true) {
            metrics::histogram!(telemetry::TAKEOVER_SECONDS).record(self.began.elapsed().as_secs_f64());
        }
        let mut changes = self.fenced.watch(view::watched(), read_at.next()).await?;
        while let Some(batch) = changes.next().await {
            self.view_mut().follow(batch.map_err(FencedError::from)?.events);
            self.tell();
        }
        Ok(())
    }

    /// Takes in what this leader has written.
    fn written(&self, ops: Vec<Op>, at: Revision) {
        let mut view = self.view_mut();
        for op in ops {
            match op {
                Op::Put { key, value, .. } => view.put(key, value, at),
                Op::Delete(Keys::One(key)) => view.delete(&key, at),
                Op::Delete(Keys::Range { .. }) | Op::Range(_) | Op::Txn(_) => {}
            }
        }
    }

    /// Ends the term if what was read is older than what the view has: the store has gone back, and by its revision alone that
    /// is not to be seen, if others have changed as much since.
    fn check<'a>(
        &self,
        view: &View,
        found: impl IntoIterator<Item = &'a KeyValue>,
        at: Revision,
    ) -> Result<(), StateError> {
        let Some(went_back) = view.contradicted(found, at) else {
            return Ok(());
        };
        self.fenced.term().report_went_back(went_back);
        Err(StateError::Over)
    }

    /// Takes in what a conflict has shown.
    fn found(&self, found: Vec<(Bytes, Option<KeyValue>)>, at: Revision) {
        let mut view = self.view_mut();
        // The term has ended if so: whoever decides anew finds out.
        if self
            .check(&view, found.iter().filter_map(|(_, kv)| kv.as_ref()), at)
            .is_err()
        {
            return;
        }
        for (key, kv) in found {
            match kv {
                Some(kv) => view.put(kv.key, kv.value, kv.mod_revision),
                None => view.delete(&key, at),
            }
        }
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the watchers if there is something new for them.
    fn tell(&self) {
        let newest = self.view().newest();
        self.news.send_if_modified(|known| {
            let newer = newest > *known;
            *known = newest.max(*known);
            newer
        });
    }
}

#[cfg(test)]
mod tests;
