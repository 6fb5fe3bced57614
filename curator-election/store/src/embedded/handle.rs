//! A call to the thread, with timeouts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::commit::{Committed, Job, job};
use super::worker::Shared;
use crate::{Revision, StoreError};

/// The timeout for queueing a call, and again for its reply.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends calls to the thread. Calls fail once the thread has stopped.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) committed: watch::Receiver<Revision>,
    pub(super) shared: Arc<Shared>,
}

impl Handle {
    /// Watches the newest revision on disk.
    pub(super) fn committed(&self) -> watch::Receiver<Revision> {
        self.committed.clone()
    }

    /// Runs an operation on the thread, and returns once its changes are on disk.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Committed) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = match timeout(CALL_TIMEOUT, self.jobs.reserve()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(self.ended()),
            Err(_) => {
                return Err(StoreError::Unreachable {
                    reason: format!("the disk accepted no write for {CALL_TIMEOUT:?}"),
                });
            }
        };
        let (job, answer) = job(act);
        place.send(job);
        match timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            // The thread stopped regularly, so it has replied to every call that it took.
            Ok(Err(_)) if self.shared.ended.get().is_some() => Err(self.ended()),
            Ok(Err(_)) => Err(StoreError::Unknown {
                reason: "the store thread panicked".into(),
            }),
            Err(_) => Err(StoreError::Unknown {
                reason: format!("no reply from the disk within {CALL_TIMEOUT:?}"),
            }),
        }
    }

    fn ended(&self) -> StoreError {
        let reason = self
            .shared
            .ended
            .get()
            .map_or("the store thread panicked", String::as_str);
        StoreError::Unreachable {
            reason: format!("the store has stopped: {reason}"),
        }
    }
}
