//! An election on a file lock, for processes on one host: a backend of somebody else under the elector.

use std::error::Error;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use curator_election::async_trait;
use curator_election::backend::{Candidate, Elected, Observation};
use curator_election::store::{Lease, LeaseId, Revision, StoreError};
use curator_election::{
    CampaignError, ChallengeRecord, ElectionBackend, ElectionStatus, Elector, ElectorConfig, PlainText,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

const POLL_INTERVAL: Duration = Duration::from_millis(20);
const KEY: Bytes = Bytes::from_static(b"lock");

/// The lock of one candidate. Whoever holds the lock on the file leads; term and value are in the file beside it.
struct FileLock {
    directory: PathBuf,
    ttl: Duration,
    next_lease: AtomicI64,
    held: Mutex<Option<File>>,
}

fn failed(error: impl ToString) -> StoreError {
    StoreError::Unreachable {
        reason: error.to_string(),
    }
}

/// The leader's value, and the revision of its term; 0 if there is none.
fn read(directory: &Path) -> io::Result<(i64, Vec<u8>)> {
    let bytes = match std::fs::read(directory.join("leader")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, Vec::new())),
        bytes => bytes?,
    };
    let (revision, value) = bytes.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    Ok((i64::from_be_bytes(*revision), value.to_vec()))
}

/// Replaces the file, so that nobody reads half of it.
fn write(directory: &Path, revision: i64, value: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("leader.{}", std::process::id()));
    std::fs::write(&new, [&revision.to_be_bytes(), value].concat())?;
    std::fs::rename(new, directory.join("leader"))
}

impl FileLock {
    fn new(directory: &Path, ttl: Duration) -> Self {
        Self {
            directory: directory.to_owned(),
            ttl,
            next_lease: AtomicI64::new(1),
            held: Mutex::new(None),
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn try_lock(&self) -> Result<Option<File>, StoreError> {
        let path = self.directory.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

fn observation(directory: &Path) -> io::Result<Observation> {
    let (revision, value) = read(directory)?;
    let leader = (!value.is_empty()).then(|| Candidate {
        key: KEY,
        value: value.into(),
        create_revision: Revision(revision),
        mod_revision: Revision(revision),
        lease: None,
    });
    Ok(Observation {
        revision: Revision(revision),
        leader,
    })
}

#[async_trait]
impl ElectionBackend for FileLock {
    async fn candidates(&self) -> Result<Vec<Candidate>, StoreError> {
        // Keys of an earlier process need not be removed: its lock went with it.
        Ok(Vec::new())
    }

    async fn remove(&self, _: Bytes, _: Revision) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let number = self.next_lease.fetch_add(1, Ordering::SeqCst);
        let id = LeaseId::new(number).ok_or_else(|| StoreError::refused("no lease left"))?;
        Ok(Lease { id, ttl })
    }

    async fn keep_alive(&self, _: LeaseId, _: u32) -> Result<Duration, StoreError> {
        Ok(self.ttl)
    }

    async fn campaign(&self, _: LeaseId, value: Bytes, _: Option<ChallengeRecord>) -> Result<Elected, CampaignError> {
        loop {
            if let Some(file) = self.try_lock()? {
                let revision = read(&self.directory).map_err(failed)?.0 + 1;
                write(&self.directory, revision, &value).map_err(failed)?;
                *self.held() = Some(file);
                return Ok(Elected {
                    key: KEY,
                    revision: Revision(revision),
                    won_at: Revision(revision),
                    has_challenge_key: false,
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn proclaim(&self, _: Bytes, revision: Revision, _: LeaseId, value: Bytes) -> Result<bool, StoreError> {
        let holds = self.held().is_some() && read(&self.directory).map_err(failed)?.0 == revision.0;
        if holds {
            write(&self.directory, revision.0, &value).map_err(failed)?;
        }
        Ok(holds)
    }

    fn observe(&self) -> BoxStream<'static, Observation> {
        let directory = self.directory.clone();
        let polls = futures::stream::unfold(directory, |directory| async {
            tokio::time::sleep(POLL_INTERVAL).await;
            Some((observation(&directory).ok(), directory))
        });
        polls.filter_map(std::future::ready).boxed()
    }

    async fn revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        // The lock ends with the file, after the value; the next leader finds the revision of this term.
        let Some(_file) = self.held().take() else {
            return Ok(());
        };
        let (revision, _) = read(&self.directory).map_err(failed)?;
        write(&self.directory, revision, &[]).map_err(failed)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("outside-file-lock-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let ttl = Duration::from_secs(2);
    let mut revisions = Vec::new();
    let mut previous: Option<(CancellationToken, tokio::task::JoinHandle<()>)> = None;
    for name in ["one", "two", "three"] {
        let backend = Arc::new(FileLock::new(&directory, ttl));
        let config = ElectorConfig {
            ttl,
            ..ElectorConfig::default()
        };
        let elector = Elector::new(backend, &PlainText(name.into()), config)?;
        let mut status = elector.handle().status();
        let cancel = CancellationToken::new();
        let running = tokio::spawn(elector.run(cancel.clone()));
        // The next one leads once the one before has resigned.
        if let Some((cancel, running)) = previous.take() {
            let follows = |status: &ElectionStatus<PlainText>| matches!(status, ElectionStatus::Follower(_));
            status.wait_for(follows).await?;
            cancel.cancel();
            running.await?;
        }
        let leads = |status: &ElectionStatus<PlainText>| matches!(status, ElectionStatus::Leader(_));
        let status = status.wait_for(leads).await?.clone();
        revisions.push(status.valid_term().ok_or("the term has just ended")?.lock_revision().0);
        previous = Some((cancel, running));
    }
    assert_eq!(revisions, [1, 2, 3], "each leads in a term of its own");
    if let Some((cancel, running)) = previous {
        cancel.cancel();
        running.await?;
    }
    std::fs::remove_dir_all(directory)?;
    println!("file-lock-backend: three leaders in turn");
    Ok(())
}
