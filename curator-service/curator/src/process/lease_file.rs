//! The leases of an instance, recorded in its runtime directory, for `curator release` after its death.
//!
//! The instance holds a lock on the file while it is alive. The kernel releases the lock only when the whole process
//! is dead; a stopped process, or one in another container, still holds it. So liveness does not depend on process
//! ids.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_election::store::LeaseId;

use crate::process::supervisor::read_lease;

const NAME: &str = "leases";
/// How long a starting instance waits for the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it tries to lock the file.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum size of the file, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The locked file. The lock ends with this value or the process.
pub(crate) struct LeaseFile {
    path: PathBuf,
    file: File,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseFileError {
    /// The file cannot be opened, read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// The instance is alive.
    #[error("the instance that uses {} is alive: only the leases of a dead instance are revoked", path.display())]
    Alive { path: PathBuf },
    /// The file contains something else.
    #[error("{} was not written by an instance: {line:?} is not a lease", path.display())]
    Content { path: PathBuf, line: String },
}

impl LeaseFile {
    /// Opens the file of a starting instance.
    ///
    /// # Errors
    /// If it cannot be created, or another instance holds it.
    pub(crate) fn begin(directory: &Path) -> Result<Self, LeaseFileError> {
        let mut waited = Duration::ZERO;
        loop {
            match Self::open(directory, true) {
                Err(LeaseFileError::Alive { .. }) if waited < LOCK_TIMEOUT => {
                    #[allow(clippy::disallowed_methods, reason = "nothing runs yet")]
                    std::thread::sleep(POLL_INTERVAL);
                    waited += POLL_INTERVAL;
                }
                Ok(found) => {
                    found.write(&BTreeSet::new())?;
                    return Ok(found);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the file of a dead instance and reads its leases. While the value is held, no instance can start with it.
    ///
    /// # Errors
    /// If there is no file, or its instance is alive.
    pub(crate) fn of_dead(directory: &Path) -> Result<(Self, BTreeSet<LeaseId>), LeaseFileError> {
        let found = Self::open(directory, false)?;
        let told = |source| LeaseFileError::File {
            path: found.path.clone(),
            source,
        };
        let length = found.file.metadata().map_err(told)?.len().min(MAX_FILE_BYTES);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        found.file.read_exact_at(&mut bytes, 0).map_err(told)?;
        let text = String::from_utf8_lossy(&bytes);
        let leases = text.lines().map(|line| {
            read_lease(line).ok_or_else(|| LeaseFileError::Content {
                path: found.path.clone(),
                line: line.to_owned(),
            })
        });
        let leases = leases.collect::<Result<_, _>>()?;
        Ok((found, leases))
    }

    fn open(directory: &Path, create: bool) -> Result<Self, LeaseFileError> {
        let path = directory.join(NAME);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let told = |path: &Path, source| LeaseFileError::File {
            path: path.to_owned(),
            source,
        };
        let file = opened.map_err(|source| told(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file }),
            Err(TryLockError::WouldBlock) => Err(LeaseFileError::Alive { path }),
            Err(TryLockError::Error(source)) => Err(told(&path, source)),
        }
    }

    /// Writes the current leases.
    pub(crate) fn write(&self, leases: &BTreeSet<LeaseId>) -> Result<(), LeaseFileError> {
        let text: String = leases.iter().map(|lease| format!("{lease}\n")).collect();
        // A kill in between leaves at most a lease that has already ended.
        let length = u64::try_from(text.len()).unwrap_or(MAX_FILE_BYTES);
        self.file
            .write_all_at(text.as_bytes(), 0)
            .and_then(|()| self.file.set_len(length))
            .map_err(|source| LeaseFileError::File {
                path: self.path.clone(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_ones_leases_are_given_out() {
        let directory = std::env::temp_dir().join(format!("curator-lease-file-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let leases: BTreeSet<_> = [0x1f, -1, i64::MAX].into_iter().filter_map(LeaseId::new).collect();
        let living = LeaseFile::begin(&directory).unwrap();
        living.write(&leases).unwrap();
        assert!(matches!(
            LeaseFile::of_dead(&directory),
            Err(LeaseFileError::Alive { .. })
        ));
        drop(living);
        let (held, found) = LeaseFile::of_dead(&directory).unwrap();
        assert_eq!(found, leases);
        held.write(&BTreeSet::new()).unwrap();
        drop(held);
        assert!(LeaseFile::of_dead(&directory).unwrap().1.is_empty());
        std::fs::write(directory.join(NAME), "1f\nsomething else\n").unwrap();
        assert!(matches!(
            LeaseFile::of_dead(&directory),
            Err(LeaseFileError::Content { .. })
        ));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(matches!(
            LeaseFile::of_dead(&directory),
            Err(LeaseFileError::File { .. })
        ));
    }
}
