//! The leader's state: a view in memory, reads behind a shared fence, batched writes.
//!
//! The state is in the store and is accessed only through [`Fenced`], within one term. S3 (a read sees every write that
//! was acknowledged before the read began) holds because:
//!
//! 1. Within the term, only this leader writes the state: the guards of all other writers fail. So the view starts from
//!    one fenced read, and only this leader's writes can be missing from it.
//! 2. [`Writer`] applies a write to the view before it acknowledges the write.
//! 3. A read waits for a fence that was sent after the read began ([`barrier`]). If the fence holds, the store executed
//!    it within the term. No other leader can have acknowledged a write before that moment, and 2 covers this leader's
//!    writes.
//!
//! A write whose reply was lost may be in the store but not in the view. It was not acknowledged, so it may be ordered
//! when it becomes visible: when the watch delivers it, or when a condition fails because of it. After that it stays,
//! because a key in the view never goes back to an older revision. The watch also delivers writes made without a term
//! (by `curator bootstrap`, or by other writers). A view without a cluster is read again before it is used.

mod barrier;
mod batch;
pub(crate) mod bootstrap;
pub(crate) mod export;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod pki_layout;
pub(crate) mod record;
mod refusal;
pub(crate) mod term_state;
pub(crate) mod tx;
pub(crate) mod view;
mod writer;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

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
use crate::failpoint;
use crate::telemetry;
use curator_election::fence::{Fenced, FencedError};

/// How long a conflicting transaction is retried, within the caller's deadline.
const CONTENTION: Duration = Duration::from_secs(10);
/// The interval between attempts to read or watch the state.
const RETRY: Duration = Duration::from_millis(100);

/// The interval of progress log lines during a long read of the state.
const PROGRESS: Duration = Duration::from_secs(2);

/// The state in one term.
pub(crate) struct State {
    fenced: Fenced,
    limits: StateLimits,
    view: RwLock<View>,
    /// The sequence number of the newest node change.
    changes: watch::Sender<u64>,
    ready: watch::Sender<bool>,
    barrier: Arc<Barrier>,
    writer: Writer,
    /// Cancelled when [`State::run`] ends. One waiter for all: each wait on the term itself polls the clock.
    term_ended: CancellationToken,
    began: Instant,
}

/// Why the state is unavailable.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Fenced(#[from] FencedError),
    #[error("conflicting changes to the same keys: retry")]
    Contended,
    #[error("the leader's term has ended")]
    Over,
}

impl From<StateError> for Status {
    fn from(error: StateError) -> Self {
        match &error {
            StateError::Fenced(FencedError::LostLeadership) | StateError::Over => Self::unavailable("lost leadership"),
            StateError::Fenced(FencedError::Store(store)) => refusal::status(store),
            StateError::Fenced(FencedError::Answer { .. }) => {
                static COMPLAINT: Complaint = Complaint::new();
                COMPLAINT.say(|left_out| warn!(%error, left_out, "unexpected reply from the store"));
                Self::unavailable("unexpected reply from the cluster's store: the change may or may not have been made")
            }
            StateError::Contended => Self::unavailable(error.to_string()),
            // An error of this program: the store was not asked.
            StateError::Fenced(_) => Self::internal(error.to_string()),
        }
    }
}

impl State {
    /// The state for the term of `fenced`. Nothing is read before [`State::run`].
    pub(crate) fn new(fenced: Fenced, limits: StateLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            barrier: Arc::new(Barrier::new(fenced.clone())),
            fenced,
            view: RwLock::default(),
            changes: watch::Sender::new(0),
            ready: watch::Sender::new(false),
            writer: Writer::default(),
            term_ended: CancellationToken::new(),
            began: Instant::now(),
        })
    }

    /// Maintains the view and executes queued writes until the term ends.
    pub(crate) async fn run(self: Arc<Self>) {
        // Also when this future is dropped: watchers get no more changes.
        let _term_ended = self.term_ended.clone().drop_guard();
        tokio::select! {
            biased;
            () = self.fenced.term().ended() => {}
            () = self.follow() => {}
            () = self.writer.run(&self) => {}
        }
        self.writer.close();
    }

    /// Reads the current state, including every write acknowledged before the call. Cancellation safe.
    pub(crate) async fn read<T>(&self, read: impl FnOnce(&View) -> T) -> Result<T, StateError> {
        self.read_barrier().await?;
        Ok(read(&self.view()))
    }

    /// Waits until the view has every write that was acknowledged before the call. Cancellation safe.
    pub(crate) async fn read_barrier(&self) -> Result<(), StateError> {
        self.ready().await?;
        if !failpoint::on(failpoint::NO_BARRIER) {
            self.barrier.pass().await?;
        }
        if self.view().get(keys::CLUSTER_CONFIGURATION.as_bytes()).is_none() && self.has_cluster().await? {
            self.refresh().await?;
        }
        Ok(())
    }

    /// Whether the store has a cluster now. Reads only the configuration: without a cluster, the other keys may be
    /// large, and clients retry. Cancellation safe.
    async fn has_cluster(&self) -> Result<bool, StateError> {
        let mut found = false;
        let configuration = [Keys::one(keys::CLUSTER_CONFIGURATION)];
        self.fenced
            .read_pages(configuration, |page: Vec<KeyValue>| found |= !page.is_empty())
            .await?;
        Ok(found)
    }

    /// The view without a fence. It may be slightly stale, but never goes back.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        // The lock cannot be poisoned half-way: its holders do not panic.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives the sequence number of the newest node change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Completes when [`State::run`] has ended, at the latest with the term.
    pub(crate) async fn term_ended(&self) {
        self.term_ended.cancelled().await;
    }

    pub(crate) const fn fenced(&self) -> &Fenced {
        &self.fenced
    }

    /// Reads, decides and writes as one transaction. If a value that `decide` read has changed before the commit,
    /// `decide` runs again. If `decide` writes nothing or fails, its result is based on a fenced view.
    ///
    /// Cancellation: the transaction may or may not be committed.
    pub(crate) async fn transact<T>(
        &self,
        mut decide: impl FnMut(&mut Tx<'_>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.ready().await?;
        // A write needs no fence: it commits only if the values it was decided on are unchanged.
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
                        debug!("write conflict: retrying");
                    }
                    WriteOutcome::Conflict => return Err(StateError::Contended.into()),
                },
                (decided, _) if fenced => return decided,
                _ => {
                    self.read_barrier().await?;
                    fenced = true;
                }
            }
        }
    }

    /// Reads keys into the view that the view does not maintain itself. Cancellation safe.
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

    /// Reads the whole state into the view. Cancellation safe.
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
        self.notify_watchers();
        Ok(read_at)
    }

    /// Whether the view has been read for the first time.
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
            // The sender is a field of `self`.
            _ = ready.wait_for(|ready| *ready) => Ok(()),
            () = self.fenced.term().ended() => Err(StateError::Over),
        }
    }

    /// Maintains the view with a read and a watch, and starts again when the watch breaks. Never returns.
    async fn follow(&self) {
        loop {
            match self.follow_once().await {
                Ok(()) => debug!("state watch ended: reading the state again"),
                Err(error) => info!(%error, "state read or watch failed: retrying"),
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
            self.notify_watchers();
        }
        Ok(())
    }

    /// Applies this leader's own write to the view.
    fn apply_write(&self, ops: Vec<Op>, at: Revision) {
        let mut view = self.view_mut();
        for op in ops {
            match op {
                Op::Put { key, value, .. } => view.put(key, value, at),
                Op::Delete(Keys::One(key)) => view.delete(&key, at),
                Op::Delete(Keys::Range { .. }) | Op::Range(_) | Op::Txn(_) => {}
            }
        }
    }

    /// Ends the term if a key was read at an older revision than the view has: the store went back. The store's
    /// revision alone does not show that if others have written as much since.
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

    /// Applies the values that a conflict has returned.
    fn apply_conflict(&self, found: Vec<(Bytes, Option<KeyValue>)>, at: Revision) {
        let mut view = self.view_mut();
        // The term has ended; the retry will find out.
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

    /// Notifies the watchers if a node has changed.
    fn notify_watchers(&self) {
        let newest = self.view().newest();
        self.changes.send_if_modified(|known| {
            let newer = newest > *known;
            *known = newest.max(*known);
            newer
        });
    }
}

#[cfg(test)]
mod tests;
