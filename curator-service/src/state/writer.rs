//! Writes that wait while a transaction is under way, and go together in the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use curator_election::store::StoreError;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::{State, StateError, batch};
use crate::fenced::{Change, FencedError, Outcome};

/// How many changes may wait at a time; any more wait to be let in.
const MOST_WAITING: usize = 4_096;

/// The queue of changes before the store.
pub(super) struct Writer {
    waiting: Mutex<Vec<Waiting>>,
    room: Semaphore,
    arrived: Notify,
}

struct Waiting {
    change: Change,
    answer: oneshot::Sender<Result<Outcome, FencedError>>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            room: Semaphore::new(MOST_WAITING),
            arrived: Notify::new(),
        }
    }
}

impl Writer {
    /// Makes a change under its own conditions, in whatever company. When it returns, the view has it.
    ///
    /// Cancellation: whether it was made is not known then.
    pub(super) async fn write(&self, change: Change) -> Result<Outcome, StateError> {
        let _room = self.room.acquire().await.map_err(|_| StateError::Over)?;
        let (answer, answered) = oneshot::channel();
        self.waiting().push(Waiting { change, answer });
        self.arrived.notify_one();
        match answered.await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(StateError::Over),
        }
    }

    /// Writes what is waiting, one transaction after the other. Never returns. Not to be run twice at a time.
    pub(super) async fn run(&self, state: &State) {
        loop {
            let taken = {
                let mut waiting = self.waiting();
                // Whoever has gone does not want it any more.
                waiting.retain(|each| !each.answer.is_closed());
                batch::take(&mut waiting, |each| &each.change)
            };
            match taken.is_empty() {
                true => self.arrived.notified().await,
                false => write_together(state, taken).await,
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

async fn write_together(state: &State, taken: Vec<Waiting>) {
    let changes = taken.iter().map(|each| each.change.clone()).collect();
    match state.fenced.write_all(changes).await {
        Ok(outcomes) => {
            for (each, outcome) in taken.iter().zip(&outcomes) {
                take_in(state, &each.change, outcome);
            }
            // One turn for all that this transaction has changed.
            state.tell();
            for (each, outcome) in taken.into_iter().zip(outcomes) {
                // Whoever has gone does not want to know.
                let _ = each.answer.send(Ok(outcome));
            }
        }
        // What is wrong with one is no fault of the others.
        Err(FencedError::Store(StoreError::Refused { .. })) if taken.len() > 1 => {
            for each in taken {
                Box::pin(write_together(state, vec![each])).await;
            }
        }
        Err(error) => {
            for each in taken {
                let _ = each.answer.send(Err(error.clone()));
            }
        }
    }
}

fn take_in(state: &State, change: &Change, outcome: &Outcome) {
    match outcome {
        Outcome::Done(revision) => state.written(change.ops.clone(), *revision),
        Outcome::Conflict { revision, found } => state.found(found.clone(), *revision),
    }
}
