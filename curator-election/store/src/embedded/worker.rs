//! The thread that owns the model and the file, and commits queued calls in batches.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::commit::{Answer, Committed, Job};
use super::error::EmbeddedError;
use super::journal::Journal;
use crate::clock::{BootClock, Clock, Instant};
use crate::{LeaseId, Revision, StoreError};

/// The maximum number of calls in one commit.
pub(super) const MAX_BATCH: usize = 256;
/// How often expired leases are removed, as in etcd.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The maximum number of revisions of history.
const MAX_HISTORY: usize = 10_000;

/// The state shared by the thread and its callers.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Why the thread has stopped; set before it drops its queued calls.
    pub(super) ended: OnceLock<String>,
    /// The number of commits.
    pub(super) commits: AtomicU64,
    /// Asks the thread to stop.
    pub(super) stop: CancellationToken,
}

/// The state of the thread.
pub(super) struct Worker {
    pub(super) journal: Journal,
    pub(super) state: Committed,
    pub(super) jobs: mpsc::Receiver<Job>,
    /// The newest revision on disk.
    pub(super) committed: watch::Sender<Revision>,
    pub(super) shared: Arc<Shared>,
}

impl Worker {
    /// Works until asked to stop or until a commit fails.
    pub(super) fn run(mut self, path: &Path) -> Result<(), EmbeddedError> {
        // Created on this thread, because a runtime must not be dropped within another one. It only drives the timer.
        let runtime = Builder::new_current_thread().enable_time().build();
        let worked = match runtime {
            Ok(runtime) => runtime.block_on(self.work()),
            Err(error) => Err(error.into()),
        };
        let failed = worked.err();
        let reason = failed
            .as_ref()
            .map_or("the store was closed".into(), ToString::to_string);
        // Callers read it when they find the channels closed.
        let _ = self.shared.ended.set(reason);
        drop(self.jobs);
        drop(self.committed);
        if let Some(error) = failed {
            tracing::error!(
                path = %path.display(),
                %error,
                "the store has stopped: check the disk and open the store again"
            );
            return Err(EmbeddedError::Stopped {
                reason: error.to_string(),
            });
        }
        self.journal
            .close()
            .map_err(|error| EmbeddedError::database(path, error))
    }

    async fn work(&mut self) -> Result<(), redb::Error> {
        let mut jobs = Vec::with_capacity(MAX_BATCH);
        let mut next_lease_check = BootClock.now() + LEASE_CHECK_INTERVAL;
        loop {
            let wait = next_lease_check.saturating_since(BootClock.now());
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Ok(()),
                // After a timeout as well as after a job, leases may have expired.
                _ = tokio::time::timeout(wait, self.jobs.recv_many(&mut jobs, MAX_BATCH)) => {}
            }
            self.state.now = BootClock.now();
            let answers: Vec<Answer> = jobs.drain(..).map(|job| job(&mut self.state)).collect();
            // After the jobs: a renewal that waited for a slow commit is in time.
            if next_lease_check <= self.state.now {
                self.state.expire();
                next_lease_check = self.state.now + LEASE_CHECK_INTERVAL;
            }
            let committed = self.commit();
            let outcome = match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(StoreError::Unknown {
                    reason: format!("commit failed: {error}"),
                }),
            };
            for answer in answers {
                answer(outcome.clone());
            }
            committed?;
            self.state.model.bound_history(MAX_HISTORY);
        }
    }

    /// Writes the changes of the model to disk, if there are any, and notifies the watches.
    fn commit(&mut self) -> Result<(), redb::Error> {
        let on_disk = *self.committed.borrow();
        let revision = self.state.model.revision();
        if revision == on_disk && self.state.leases.is_empty() {
            return Ok(());
        }
        let keys = self.state.model.keys_changed_after(on_disk);
        self.journal.write(&self.state.model, &keys, &self.state.leases)?;
        self.state.leases.clear();
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.committed
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
        Ok(())
    }
}

impl Committed {
    /// Removes expired leases.
    fn expire(&mut self) {
        let past = |(id, expires_at): (LeaseId, Instant)| (expires_at <= self.now).then_some(id);
        let over: Vec<LeaseId> = self.model.leases().filter_map(past).collect();
        self.leases.extend(over);
        self.model.expire(self.now);
    }
}
