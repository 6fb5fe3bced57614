//! The write queue: changes wait while a transaction is under way and share the next one.
//!
//! A change that is retried after a conflict keeps its place in the queue, so that many writers of one key all make
//! progress. A change whose conditions are known to fail is not sent to the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curator_election::backoff::Backoff;
use curator_election::store::{RefusalKind, StoreError};
use tokio::sync::{Notify, Semaphore, oneshot};
use tracing::{Instrument, Span, debug, debug_span};

use crate::failpoint;
use crate::state::{State, StateError, batch};
use crate::telemetry;
use curator_election::fence::{Change, FencedError, Outcome, TRACED};

/// The maximum number of queued changes; more wait for a permit.
const MAX_WAITING: usize = 4_096;
/// The range of pauses between transactions while the store is overloaded. Changes queued meanwhile share a
/// transaction.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The queue of changes.
pub(super) struct Writer {
    /// Ordered by place.
    waiting: Mutex<Vec<Waiting>>,
    places: AtomicU64,
    room: Semaphore,
    arrived: Notify,
}

/// A place in the queue. Of changes to the same keys, the lowest place is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// The outcome of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// The change is committed, and the view has it.
    Committed,
    /// Nothing was done: a condition failed, and the view has the current values.
    Conflict,
}

struct Waiting {
    place: Place,
    change: Change,
    answer: oneshot::Sender<Result<WriteOutcome, FencedError>>,
    /// The caller's span.
    span: Span,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            places: AtomicU64::new(0),
            room: Semaphore::new(MAX_WAITING),
            arrived: Notify::new(),
        }
    }
}

impl Writer {
    /// A new place at the end of the queue.
    pub(super) fn place(&self) -> Place {
        Place(self.places.fetch_add(1, Ordering::Relaxed))
    }

    /// Enqueues a change; it may share a transaction with others.
    ///
    /// Cancellation: the change may or may not be made.
    pub(super) async fn write(&self, place: Place, change: Change) -> Result<WriteOutcome, StateError> {
        let span = debug_span!(target: TRACED, "write", operations = change.ops.len());
        self.queue(place, change, &span).instrument(span.clone()).await
    }

    async fn queue(&self, place: Place, change: Change, span: &Span) -> Result<WriteOutcome, StateError> {
        let _room = self.room.acquire().await.map_err(|_| StateError::Over)?;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            let at = waiting.partition_point(|each| each.place < place);
            let span = span.clone();
            waiting.insert(
                at,
                Waiting {
                    place,
                    change,
                    answer,
                    span,
                },
            );
        }
        self.arrived.notify_one();
        match answered.await {
            Ok(fate) => {
                debug!(target: TRACED, ?fate, "outcome of a change");
                Ok(fate?)
            }
            Err(_) => Err(StateError::Over),
        }
    }

    /// Executes queued changes, one transaction after the other. Never returns. Must not run twice at a time.
    pub(super) async fn run(&self, state: &State) {
        let mut pauses = Backoff::new(MIN_PAUSE, MAX_PAUSE, 0);
        loop {
            let taken = {
                let view = state.view();
                let mut waiting = self.waiting();
                // Drop changes whose callers have gone.
                waiting.retain(|each| !each.answer.is_closed());
                for overtaken in waiting.extract_if(.., |each| view.has_overtaken(&each.change)) {
                    let _ = overtaken.answer.send(Ok(WriteOutcome::Conflict));
                }
                batch::take(&mut waiting, |each| &each.change)
            };
            if taken.is_empty() {
                self.arrived.notified().await;
            } else {
                match write_together(state, taken).await {
                    Some(RefusalKind::Overloaded) => tokio::time::sleep(pauses.failed()).await,
                    _ => pauses.succeeded(),
                }
            }
        }
    }

    /// Fails all queued and later changes.
    pub(super) fn close(&self) {
        self.room.close();
        self.waiting().clear();
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        // The lock cannot be poisoned half-way: its holders do not panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a refusal of a batch may be caused by one of its changes.
const fn may_be_caused_by_one(kind: RefusalKind) -> bool {
    !matches!(
        kind,
        RefusalKind::NoSpace | RefusalKind::Overloaded | RefusalKind::Authentication | RefusalKind::WrongCluster
    )
}

/// Executes the changes in one transaction and completes each of them. Returns the kind of refusal, if there is one.
async fn write_together(state: &State, taken: Vec<Waiting>) -> Option<RefusalKind> {
    let changes = taken.iter().map(|each| each.change.clone()).collect();
    match state.fenced.write_all(changes).instrument(shared(&taken)).await {
        Ok(outcomes) => {
            committed(
                "ok",
                outcomes
                    .iter()
                    .filter(|outcome| matches!(outcome, Outcome::Done(_)))
                    .count(),
            );
            for (each, outcome) in taken.iter().zip(&outcomes) {
                apply(state, &each.change, outcome);
            }
            // Notify the watchers once per transaction.
            state.notify_watchers();
            for (each, outcome) in taken.into_iter().zip(outcomes) {
                let fate = match outcome {
                    Outcome::Done(_) => WriteOutcome::Committed,
                    Outcome::Conflict { .. } if failpoint::on(failpoint::ACKNOWLEDGES_CONFLICT) => {
                        WriteOutcome::Committed
                    }
                    Outcome::Conflict { .. } => WriteOutcome::Conflict,
                };
                // The caller may have gone.
                let _ = each.answer.send(Ok(fate));
            }
            None
        }
        // One change may be refused; the others must not fail with it.
        Err(FencedError::Store(StoreError::Refused { kind, .. })) if taken.len() > 1 && may_be_caused_by_one(kind) => {
            for each in taken {
                Box::pin(write_together(state, vec![each])).await;
            }
            None
        }
        Err(error) => {
            committed("failed", 0);
            let refusal = match &error {
                FencedError::Store(store) => store.refusal(),
                _ => None,
            };
            for each in taken {
                let _ = each.answer.send(Err(error.clone()));
            }
            refusal
        }
    }
}

/// The transaction's span: in the trace of the first change, linked to those of the others.
fn shared(taken: &[Waiting]) -> Span {
    let first = taken.first().map(|each| &each.span);
    let span = debug_span!(target: TRACED, parent: first.and_then(Span::id), "commit", changes = taken.len());
    if !span.is_disabled() {
        for each in taken.iter().skip(1) {
            span.follows_from(each.span.id());
        }
    }
    span
}

/// Counts a transaction and the changes that it committed.
fn committed(outcome: &'static str, changes: usize) {
    metrics::counter!(telemetry::STATE_COMMITS, "outcome" => outcome).increment(1);
    metrics::counter!(telemetry::STATE_CHANGES).increment(changes as u64);
}

fn apply(state: &State, change: &Change, outcome: &Outcome) {
    match outcome {
        Outcome::Done(revision) => state.apply_write(change.ops.clone(), *revision),
        Outcome::Conflict { revision, found } => state.apply_conflict(found.clone(), *revision),
    }
}
