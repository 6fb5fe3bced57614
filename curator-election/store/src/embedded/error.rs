//! Errors of opening and closing an embedded store.

use std::io;
use std::path::{Path, PathBuf};

/// An error of opening or closing an [`EmbeddedStore`](super::EmbeddedStore).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// A file operation failed.
    #[error("{}: {source}; check the disk, its free space and the permissions", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The store does not exist.
    #[error("{} not found: no store in this directory", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Other users can modify or replace the store.
    #[error("{} is writable by other users ({what}): run {remedy} {}", path.display(), path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        what: String,
        /// The command that fixes it.
        remedy: String,
    },
    /// Another process, or another store in this one, has the file open.
    #[error("{} is in use: stop the process that has it open, or use another directory", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file has the format of another version.
    #[error(
        "{} has format {found}, this version reads format {expected}: use the version that wrote it, or move the file \
         away to start with an empty store",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: String,
        /// The format that this version reads and writes.
        expected: u64,
    },
    /// The file is not a store, or is inconsistent.
    #[error(
        "{} is damaged ({reason}): restore a backup, or move the file away to start with an empty store",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The thread could not be started.
    #[error("cannot start the store thread: {source}; raise the thread limit of this user")]
    Thread {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The store had stopped before because of an error.
    #[error("the store had stopped ({reason}): remove the cause and open it again")]
    Stopped {
        /// The cause.
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

    /// Classifies an error of the database.
    pub(super) fn database(path: &Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse { path },
            redb::Error::UpgradeRequired(found) => Self::Format {
                path,
                found: format!("of database file {found}"),
                expected: super::journal::FORMAT,
            },
            // redb reports a file that is no database, or is truncated, as these.
            redb::Error::Io(source)
                if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                Self::Io { path, source }
            }
            other => Self::damaged(&path, other),
        }
    }
}
