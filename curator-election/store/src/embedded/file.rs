//! The directory and the file: created with private permissions, and atomically.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database};

use super::error::EmbeddedError;
use super::journal::{FORMAT, Journal, LoadError};
use crate::memory::model::Stored;

const NAME: &str = "curator.redb";
/// The name of the file until it holds a complete, empty store.
const TEMPORARY_NAME: &str = "curator.redb.new";
/// The mode bits that let other users write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The size of the database cache. The model keeps all data in memory anyway.
const CACHE_BYTES: usize = 16 << 20;

/// Opens the file in `dir`; creates the directory and the file if necessary.
pub(super) fn open(dir: &Path) -> Result<(PathBuf, Journal, Stored), EmbeddedError> {
    make_dir(dir).map_err(|source| EmbeddedError::io(dir, source))?;
    check(dir)?;
    let path = dir.join(NAME);
    if !exists(&path)? {
        create(dir, &path)?;
    }
    open_existing(dir)
}

/// Opens an existing store.
pub(super) fn open_existing(dir: &Path) -> Result<(PathBuf, Journal, Stored), EmbeddedError> {
    let path = dir.join(NAME);
    if !exists(&path)? {
        return Err(EmbeddedError::Missing { path });
    }
    check(dir)?;
    check(&path)?;
    // Without this check a file that was modified by others could make the database panic later.
    let mut builder = builder();
    builder.set_check_integrity_on_open(true);
    let database = builder.open(&path);
    let database = database.map_err(|error| EmbeddedError::database(&path, error.into()))?;
    let journal = Journal::new(database);
    let stored = journal.load().map_err(|error| match error {
        LoadError::Database(error) => EmbeddedError::database(&path, error),
        LoadError::Damaged(reason) => EmbeddedError::damaged(&path, reason),
        LoadError::Format(found) => EmbeddedError::Format {
            path: path.clone(),
            found,
            expected: FORMAT,
        },
    })?;
    Ok((path, journal, stored))
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn exists(path: &Path) -> Result<bool, EmbeddedError> {
    path.try_exists().map_err(|source| EmbeddedError::io(path, source))
}

/// Rejects a directory or file that other users can modify: the store holds the whole cluster state.
fn check(path: &Path) -> Result<(), EmbeddedError> {
    let metadata = std::fs::metadata(path).map_err(|source| EmbeddedError::io(path, source))?;
    let exposed = |what: String, remedy: String| EmbeddedError::Exposed {
        path: path.to_owned(),
        what,
        remedy,
    };
    let own = rustix::process::geteuid();
    if metadata.uid() != own.as_raw() && metadata.uid() != 0 {
        let what = format!("owned by uid {}", metadata.uid());
        return Err(exposed(what, format!("chown {}", own.as_raw())));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(exposed(format!("mode {mode:o}"), "chmod go-w".into()));
    }
    Ok(())
}

/// Creates the directory and syncs its parents, so that it survives a power failure.
fn make_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir
        .ancestors()
        .take_while(|path| !path.is_dir() && !path.as_os_str().is_empty())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Creates an empty store under a temporary name and renames it, so that a crash leaves no unreadable file.
fn create(dir: &Path, path: &Path) -> Result<(), EmbeddedError> {
    let in_dir = |source| EmbeddedError::io(dir, source);
    let handle = File::open(dir).map_err(in_dir)?;
    // Of several concurrent processes, one creates the file.
    handle.lock().map_err(in_dir)?;
    if exists(path)? {
        return Ok(());
    }
    let unfinished = dir.join(TEMPORARY_NAME);
    let made = || -> Result<(), redb::Error> {
        // Left behind by a crash.
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        let journal = Journal::new(builder().create(&unfinished)?);
        journal.initialize()?;
        journal.close()
    };
    made().map_err(|error| EmbeddedError::database(&unfinished, error))?;
    std::fs::rename(&unfinished, path).map_err(in_dir)?;
    handle.sync_all().map_err(in_dir)
}
