//! A durable store for a service that is a single process: the model of etcd over one file.
//!
//! [`EmbeddedStore`] answers as etcd does, so elections and fenced state run on it unchanged; only there is nobody to
//! take over when the host fails. One thread owns the state. It takes all calls that are waiting, carries them out,
//! commits what they changed as one, and only then answers any of them, reads too: nobody sees what a crash could take
//! back.
//!
//! On disk are the live keys, the leases and the revision. After a restart each lease has its full TTL again, as after
//! a change of etcd's leader, and the history of before counts as compacted.

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
use crate::{Keys, Lease, LeaseId, Range, RangeResult, Revision, Store, StoreError, Txn, TxnResult, WatchStream};

/// How many calls may wait for the thread; further ones wait for a place.
const WAITING: usize = 1024;

/// A store in a directory of this host, which one process at a time can open.
///
/// Every call returns within ten seconds, and a watch ends within eleven, also when the disk hangs. Once a commit has
/// failed, the calls that it was for are [`StoreError::Unknown`] and all later ones [`StoreError::Unreachable`]: the
/// state in memory may be ahead of the disk, so the store must be opened again.
///
/// A watch that nobody polls while some thousand changes happen may find its place compacted, as in etcd.
#[derive(Debug)]
pub struct EmbeddedStore {
    handle: Handle,
    path: PathBuf,
    thread: Mutex<Option<JoinHandle<Result<(), EmbeddedError>>>>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, which is made, for this user alone, if it is not there.
    ///
    /// Blocks while the file is read and checked. Needs no runtime; calls do.
    ///
    /// # Errors
    /// The file is in use, damaged, of another format, or cannot be accessed.
    pub fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        let (path, journal, stored) = file::open(dir)?;
        Self::start(path, journal, stored)
    }

    /// The same, of a store that is there: none is made.
    ///
    /// # Errors
    /// There is none; or those of [`open`](Self::open).
    pub fn open_existing(dir: &Path) -> Result<Self, EmbeddedError> {
        let (path, journal, stored) = file::open_existing(dir)?;
        Self::start(path, journal, stored)
    }

    fn start(path: PathBuf, journal: Journal, stored: Stored) -> Result<Self, EmbeddedError> {
        let now = BootClock.now();
        // Ids of leases must not come again, so the seed must not either.
        let model = Model::restore(rand::random(), now, stored);
        let model = model.map_err(|error| EmbeddedError::damaged(&path, error))?;
        let (jobs, waiting) = mpsc::channel(WAITING);
        let committed = revisions::Sender::new(model.revision());
        let shared = Arc::new(Shared::default());
        let handle = Handle {
            jobs,
            committed: committed.subscribe(),
            shared: shared.clone(),
        };
        let worker = Worker {
            journal,
            ledger: Committed {
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

    /// Stops the thread, waits for it and closes the file. Calls under way are answered or [`StoreError::Unreachable`].
    ///
    /// Blocks for as long as a commit takes. Does nothing the second time; dropping does the same, and drops the error.
    ///
    /// # Errors
    /// The file could not be closed, or the store had stopped before because a commit had failed.
    pub fn close(&self) -> Result<(), EmbeddedError> {
        self.handle.shared.stop.cancel();
        // Held while joining, so that whoever comes second does not return before the file is closed.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| {
            Err(EmbeddedError::Stopped {
                reason: "its thread has panicked".into(),
            })
        })
    }

    /// Completes once the store takes no calls any more, with the reason: a commit has failed, or it was closed. What is on disk then is
    /// whole, and opening it again is all that helps.
    ///
    /// Cancellation safe.
    pub async fn stopped(&self) -> String {
        let mut committed = self.handle.committed();
        while committed.changed().await.is_ok() {}
        let ended = self.handle.shared.ended.get().cloned();
        ended.unwrap_or_else(|| "its thread has panicked".into())
    }

    /// How many commits there were since it was opened.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.handle.shared.commits.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(path = %self.path.display(), %error, "the store was not closed in good order");
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.handle.call(move |ledger| ledger.model.txn(&txn)).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.handle.call(move |ledger| ledger.model.range(&range)).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        watch::open(self.handle.clone(), keys, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let granted = self.handle.call(move |ledger| {
            let lease = ledger.model.grant(ledger.now, ttl);
            ledger.leases.insert(lease.id);
            Ok(lease)
        });
        granted.await
    }

    async fn keep_alive(&self, lease: LeaseId, _attempt: u32) -> Result<Duration, StoreError> {
        let renewed = self
            .handle
            .call(move |ledger| ledger.model.keep_alive(ledger.now, lease));
        renewed.await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self.handle.call(move |ledger| {
            ledger.model.revoke(lease)?;
            ledger.leases.insert(lease);
            Ok(())
        });
        revoked.await
    }
}
