//! A durable store for a single-process service: the model of etcd over one file.
//!
//! [`EmbeddedStore`] has the semantics of etcd, so elections and fenced state run on it unchanged. There is no failover
//! when the host fails. One thread owns the state. It takes all waiting calls, executes them, commits their changes in
//! one transaction, and only then replies to any of them, including reads. So no reply can be lost by a crash.
//!
//! The file holds the live keys, the leases and the revision. After a restart each lease has its full TTL again, as
//! after a leader election of etcd, and the earlier history counts as compacted.

mod commit;
mod error;
mod file;
mod handle;
mod journal;
mod watch;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch as revisions};

use commit::Committed;
pub use error::EmbeddedError;
use handle::Handle;
use journal::Journal;
use worker::{Shared, Worker};

use crate::clock::{BootClock, Clock};
use crate::memory::model::{Model, Stored};
use crate::{
    Keys, Lease, LeaseId, Range, RangeResult, Revision, Store, StoreError, TimeToLive, Txn, TxnResult, WatchStream,
};

/// The maximum number of calls queued for the thread; further calls wait.
const MAX_QUEUED_CALLS: usize = 1024;

/// A store in a local directory, which one process at a time can open.
///
/// Every call returns within ten seconds, and a watch ends within eleven, also when the disk hangs. Once a commit has
/// failed, the calls that it was for are [`StoreError::Unknown`] and all later ones [`StoreError::Unreachable`]: the
/// state in memory may be ahead of the disk, so the store must be opened again.
///
/// A watch that is not polled during thousands of changes may end as compacted, as in etcd.
#[derive(Debug)]
pub struct EmbeddedStore {
    handle: Handle,
    path: PathBuf,
    thread: Mutex<Option<JoinHandle<Result<(), EmbeddedError>>>>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`. Creates the directory with mode 0700 if it does not exist.
    ///
    /// Blocks while the file is read and checked. Needs no runtime, but calls do.
    ///
    /// # Errors
    /// If the file is in use, damaged, of another format, or inaccessible.
    pub fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        let (path, journal, stored) = file::open(dir)?;
        Self::start(path, journal, stored)
    }

    /// Opens an existing store; never creates one.
    ///
    /// # Errors
    /// If there is no store, and those of [`open`](Self::open).
    pub fn open_existing(dir: &Path) -> Result<Self, EmbeddedError> {
        let (path, journal, stored) = file::open_existing(dir)?;
        Self::start(path, journal, stored)
    }

    fn start(path: PathBuf, journal: Journal, stored: Stored) -> Result<Self, EmbeddedError> {
        let now = BootClock.now();
        // A random seed, so that lease ids are not reused.
        let model = Model::restore(rand::random(), now, stored);
        let model = model.map_err(|error| EmbeddedError::damaged(&path, error))?;
        let (jobs, waiting) = mpsc::channel(MAX_QUEUED_CALLS);
        let committed = revisions::Sender::new(model.revision());
        let shared = Arc::new(Shared::default());
        let handle = Handle {
            jobs,
            committed: committed.subscribe(),
            shared: shared.clone(),
        };
        let worker = Worker {
            journal,
            state: Committed {
                model,
                now,
                leases: BTreeSet::new(),
            },
            jobs: waiting,
            committed,
            shared,
        };
        let thread = {
            let path = path.clone();
            std::thread::Builder::new()
                .name("embedded-store".into())
                .spawn(move || worker.run(&path))
                .map_err(|source| EmbeddedError::Thread { source })?
        };
        Ok(Self {
            handle,
            path,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops the thread, waits for it and closes the file. Calls in progress are answered or
    /// [`StoreError::Unreachable`].
    ///
    /// Blocks for as long as a commit takes. A second call does nothing. Dropping the store closes it too, and logs the
    /// error.
    ///
    /// # Errors
    /// If the file could not be closed, or the store had stopped before because a commit failed.
    pub fn close(&self) -> Result<(), EmbeddedError> {
        self.handle.shared.stop.cancel();
        // Held during the join, so that a concurrent call does not return before the file is closed.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| {
            Err(EmbeddedError::Stopped {
                reason: "the store thread panicked".into(),
            })
        })
    }

    /// Completes with the reason once the store has stopped: a commit failed, or the store was closed. The file is
    /// consistent; open the store again to continue.
    ///
    /// Cancellation safe.
    pub async fn stopped(&self) -> String {
        let mut committed = self.handle.committed();
        while committed.changed().await.is_ok() {}
        let ended = self.handle.shared.ended.get().cloned();
        ended.unwrap_or_else(|| "the store thread panicked".into())
    }

    /// The number of commits since the store was opened.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.handle.shared.commits.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(path = %self.path.display(), %error, "closing the embedded store failed");
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.handle.call(move |state| state.model.txn(&txn)).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.handle.call(move |state| state.model.range(&range)).await
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<RangeResult>, StoreError> {
        let reads = move |state: &mut Committed| ranges.iter().map(|range| state.model.range(range)).collect();
        self.handle.call(reads).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        watch::open(self.handle.clone(), keys, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let granted = self.handle.call(move |state| {
            let lease = state.model.grant(state.now, ttl);
            state.leases.insert(lease.id);
            Ok(lease)
        });
        granted.await
    }

    async fn keep_alive(&self, lease: LeaseId, _attempt: u32) -> Result<Duration, StoreError> {
        let renewed = self.handle.call(move |state| state.model.keep_alive(state.now, lease));
        renewed.await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        let asked = self
            .handle
            .call(move |state| state.model.time_to_live(state.now, lease));
        asked.await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self.handle.call(move |state| {
            state.model.revoke(lease)?;
            state.leases.insert(lease);
            Ok(())
        });
        revoked.await
    }
}
