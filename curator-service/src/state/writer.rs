//! Writes that wait while a transaction is under way, and go together in the next.
//!
//! Whoever has to decide anew because others were faster keeps its place in the queue, so that many who change one key all get
//! their turn. What the view shows to have been overtaken is not sent to the store at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::failpoint;
use curator_election::backoff::Backoff;
use curator_election::store::{RefusalKind, StoreError};
use tokio::sync::{Notify, Semaphore, oneshot};
use tracing::{Instrument, Span, debug, debug_span};

use crate::state::fenced::{Change, FencedError, Outcome, TRACED};
use crate::state::{State, StateError, batch};
use crate::telemetry;

/// How many changes may wait at a time; any more wait to be let in.
const MAX_WAITING: usize = 4_096;
/// Between two transactions for a store that has too much to do. What waits meanwhile goes together.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The queue of changes before the store.
pub(super) struct Writer {
    /// In the order of their places.
    waiting: Mutex<Vec<Waiting>>,
    places: AtomicU64,
    room: Semaphore,
    arrived: Notify,
}

/// A place in the queue: the lower one is served first where two touch the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// It was made, and the view has it.
    Committed,
    /// Nothing was done: what it was decided on is not so any more, and the view has what is so instead.
    Conflict,
}

struct Waiting {
    place: Place,
    change: Change,
    answer: oneshot::Sender<Result<WriteOutcome, FencedError>>,
    /// What it is done for.
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
    /// The last place in the queue.
    pub(super) fn place(&self) -> Place {
        Place(self.places.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a change under its own conditions, in whatever company.
    ///
    /// Cancellation: whether it was made is not known then.
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

    /// Writes what is waiting, one transaction after the other. Never returns. Not to be run twice at a time.
    pub(super) async fn run(&self, state: &State) {
        let mut pauses = Backoff::new(MIN_PAUSE, MAX_PAUSE, 0);
        loop {
            let taken = {
                let view = state.view();
                let mut waiting = self.waiting();
                // Whoever has gone does not want it any more.
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

    /// Turns away who waits, and who comes later.
    pub(super) fn close(&self) {
        self.room.close();
        self.waiting().clear();
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        // Nothing that holds the lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the store may refuse a transaction of several changes for what is in one of them.
const fn may_be_of_one(kind: RefusalKind) -> bool {
    !matches!(
        kind,
        RefusalKind::NoSpace | RefusalKind::Overloaded | RefusalKind::Authentication | RefusalKind::WrongCluster
    )
}

/// Makes the changes in one transaction, and answers each; says why the store has refused it, if it has.
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
                take_in(state, &each.change, outcome);
            }
            // One turn for all that this transaction has changed.
            state.tell();
            for (each, outcome) in taken.into_iter().zip(outcomes) {
                let fate = match outcome {
                    Outcome::Done(_) => WriteOutcome::Committed,
                    Outcome::Conflict { .. } if failpoint::on(failpoint::ACKNOWLEDGES_CONFLICT) => {
                        WriteOutcome::Committed
                    }
                    Outcome::Conflict { .. } => WriteOutcome::Conflict,
                };
                // Whoever has gone does not want to know.
                let _ = each.answer.send(Ok(fate));
            }
            None
        }
        // What is wrong with one is no fault of the others.
        Err(FencedError::Store(StoreError::Refused { kind, .. })) if taken.len() > 1 && may_be_of_one(kind) => {
            for each in taken {
                Box::pin(write_together(state, vec![each])).await;
            }
            None
        }
        Err(error) => {
            committed("failed", 0);
            let refusal = match &error {
                FencedError::Store(store) => store.refusal(),
                FencedError::LostLeadership | FencedError::Answer { .. } => None,
            };
            for each in taken {
                let _ = each.answer.send(Err(error.clone()));
            }
            refusal
        }
    }
}

/// The span of a transaction that these share: in the trace of the first, and linked to the others'.
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

/// Counts a transaction and the changes that it made.
fn committed(outcome: &'static str, changes: usize) {
    metrics::counter!(telemetry::STATE_COMMITS, "outcome" => outcome).increment(1);
    metrics::counter!(telemetry::STATE_CHANGES).increment(changes as u64);
}

fn take_in(state: &State, change: &Change, outcome: &Outcome) {
    match outcome {
        Outcome::Done(revision) => state.written(change.ops.clone(), *revision),
        Outcome::Conflict { revision, found } => state.found(found.clone(), *revision),
    }
}
