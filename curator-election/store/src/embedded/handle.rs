//! The way of a call to the thread and back, within a bound.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::commit::{Committed, Job, job};
use super::worker::Shared;
use crate::{Revision, StoreError};

/// How long a call waits for its turn, and then again for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that a caller needs. Outlives the thread: calls then fail.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) committed: watch::Receiver<Revision>,
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// The newest revision on disk, as it changes.
    pub(super) fn committed(&self) -> watch::Receiver<Revision> {
        self.committed.clone()
    }

    /// Has the thread do something, and returns once the disk has what came of it.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Committed) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = match timeout(PATIENCE, self.jobs.reserve()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(self.ended()),
            Err(_) => {
                return Err(StoreError::Unreachable {
                    reason: format!("the disk has taken nothing for {PATIENCE:?}"),
                });
            }
        };
        let (job, answer) = job(act);
        place.send(job);
        match timeout(PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            // The thread ended in good order, so it has answered everything that it took.
            Ok(Err(_)) if self.shared.ended.get().is_some() => Err(self.ended()),
            Ok(Err(_)) => Err(StoreError::Unknown {
                reason: "the store's thread has panicked".into(),
            }),
            Err(_) => Err(StoreError::Unknown {
                reason: format!("no answer from the disk within {PATIENCE:?}"),
            }),
        }
    }

    fn ended(&self) -> StoreError {
        let reason = self
            .shared
            .ended
            .get()
            .map_or("its thread has panicked", String::as_str);
        StoreError::Unreachable {
            reason: format!("the store has stopped: {reason}"),
        }
    }
}
