//! Why an embedded store cannot be opened or closed.

use std::io;
use std::path::{Path, PathBuf};

/// Why an [`EmbeddedStore`](super::EmbeddedStore) could not be opened, or not closed in good order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// The operating system refused an access.
    #[error("{}: {source}; it must be on a working disk with space left, and writable for this user", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// There is no store.
    #[error("{} is not there: no store was made in this directory", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may change the store, or put another one in its place.
    #[error("others may change what is in {}, {what}: {remedy} {}", path.display(), path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Why they may.
        what: String,
        /// What helps.
        remedy: String,
    },
    /// Another process, or another store in this one, has the file open.
    #[error("{} is in use: stop the process that has it open, or give this one a directory of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a version that stores in another way.
    #[error(
        "{} is stored in format {found}, this version reads format {expected}: run the version that wrote it, or move \
         the file away to begin with an empty store",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that it says it has.
        found: String,
        /// The format that this version reads and writes.
        expected: u64,
    },
    /// The file is no store, or what it holds contradicts itself.
    #[error(
        "{} is damaged ({reason}): put a backup in its place, or move it away to begin with an empty store",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system gave no thread.
    #[error("no thread for the store: {source}; raise the limit of threads for this user")]
    Thread {
        /// What the operating system says.
        source: io::Error,
    },
    /// The store had stopped by itself before.
    #[error("the store had stopped ({reason}): see to the cause and open it again")]
    Stopped {
        /// Why it stopped.
        reason: String,
    },
}

impl EmbeddedError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// Sorts an error of the database by what the operator can do about it.
    pub(super) fn database(path: &Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse { path },
            redb::Error::UpgradeRequired(found) => Self::Format {
                path,
                found: format!("of database file {found}"),
                expected: super::journal::FORMAT,
            },
            // A file that is no database, or ends too early, is told as these.
            redb::Error::Io(source)
                if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Io { path, source }
            }
            other => Self::damaged(&path, other),
        }
    }
}
