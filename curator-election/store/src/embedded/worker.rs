//! The thread that owns the model and the file, and commits what has come in the meantime as one.

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

/// The most that goes into one commit.
pub(super) const BATCH: usize = 256;
/// How often leases are looked through, as in etcd.
const LEASE_SCAN: Duration = Duration::from_millis(500);
/// How many revisions of history are kept.
const HISTORY: usize = 10_000;

/// What the thread and its callers both look at.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Why the thread has ended; set before it lets go of the calls that it has not taken.
    pub(super) ended: OnceLock<String>,
    /// How many commits there were.
    pub(super) commits: AtomicU64,
    /// Asks the thread to end.
    pub(super) stop: CancellationToken,
}

/// The thread's own.
pub(super) struct Worker {
    pub(super) journal: Journal,
    pub(super) ledger: Committed,
    pub(super) jobs: mpsc::Receiver<Job>,
    /// The newest revision on disk.
    pub(super) committed: watch::Sender<Revision>,
    pub(super) shared: Arc<Shared>,
}

impl Worker {
    /// Works until asked to stop or until a commit fails.
    pub(super) fn run(mut self, path: &Path) -> Result<(), EmbeddedError> {
        // Made here, as a runtime must not be dropped within another one. It is for the timer alone.
        let runtime = Builder::new_current_thread().enable_time().build();
        let worked = match runtime {
            Ok(runtime) => runtime.block_on(self.work()),
            Err(error) => Err(error.into()),
        };
        let failed = worked.err();
        let reason = failed.as_ref().map_or("it was closed".into(), ToString::to_string);
        // Callers that find the channels closed look here.
        let _ = self.shared.ended.set(reason);
        drop(self.jobs);
        drop(self.committed);
        if let Some(error) = failed {
            tracing::error!(path = %path.display(), %error, "the store has stopped: see to the disk and open it again");
            return Err(EmbeddedError::Stopped {
                reason: error.to_string(),
            });
        }
        self.journal
            .close()
            .map_err(|error| EmbeddedError::database(path, error))
    }

    async fn work(&mut self) -> Result<(), redb::Error> {
        let mut jobs = Vec::with_capacity(BATCH);
        let mut next_scan = BootClock.now() + LEASE_SCAN;
        loop {
            let wait = next_scan.saturating_since(BootClock.now());
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Ok(()),
                // Whether it was the time or a job, there may be something to do.
                _ = tokio::time::timeout(wait, self.jobs.recv_many(&mut jobs, BATCH)) => {}
            }
            self.ledger.now = BootClock.now();
            let answers: Vec<Answer> = jobs.drain(..).map(|job| job(&mut self.ledger)).collect();
            // After the jobs: a renewal that waited for a slow commit came in time.
            if next_scan <= self.ledger.now {
                self.ledger.expire();
                next_scan = self.ledger.now + LEASE_SCAN;
            }
            let committed = self.commit();
            let told = match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(StoreError::Unknown {
                    reason: format!("the commit failed: {error}"),
                }),
            };
            for answer in answers {
                answer(told.clone());
            }
            committed?;
            self.ledger.model.bound_history(HISTORY);
        }
    }

    /// Brings the disk up to the model, if it is behind, and then tells the watches.
    fn commit(&mut self) -> Result<(), redb::Error> {
        let on_disk = *self.committed.borrow();
        let revision = self.ledger.model.revision();
        if revision == on_disk && self.ledger.leases.is_empty() {
            return Ok(());
        }
        let keys = self.ledger.model.keys_changed_after(on_disk);
        self.journal.write(&self.ledger.model, &keys, &self.ledger.leases)?;
        self.ledger.leases.clear();
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.committed
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
        Ok(())
    }
}

impl Committed {
    /// Ends the leases that are past their time.
    fn expire(&mut self) {
        let past = |(id, expires_at): (LeaseId, Instant)| (expires_at <= self.now).then_some(id);
        let over: Vec<LeaseId> = self.model.leases().filter_map(past).collect();
        self.leases.extend(over);
        self.model.expire(self.now);
    }
}
