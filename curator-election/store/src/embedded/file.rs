//! The directory and the file in it: made for this user alone, and never half made.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database};

use super::error::EmbeddedError;
use super::journal::{FORMAT, Journal, LoadError};
use crate::memory::model::Stored;

const NAME: &str = "curator.redb";
/// What the file is called until it holds a whole, empty store.
const UNFINISHED: &str = "curator.redb.new";
/// Others may write, or in a directory make files.
const OTHERS_WRITE: u32 = 0o022;
/// The model keeps everything in memory, so the database need not.
const CACHE: usize = 16 << 20;

/// Opens the file in `dir`, and makes both if need be.
pub(super) fn open(dir: &Path) -> Result<(PathBuf, Journal, Stored), EmbeddedError> {
    make_dir(dir).map_err(|source| EmbeddedError::io(dir, source))?;
    check(dir)?;
    let path = dir.join(NAME);
    if !exists(&path)? {
        create(dir, &path)?;
    }
    open_existing(dir)
}

/// The same, of a store that is there.
pub(super) fn open_existing(dir: &Path) -> Result<(PathBuf, Journal, Stored), EmbeddedError> {
    let path = dir.join(NAME);
    if !exists(&path)? {
        return Err(EmbeddedError::Missing { path });
    }
    check(dir)?;
    check(&path)?;
    // A file altered by others would make the database panic later, if it were not looked through now.
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
    builder.set_cache_size(CACHE);
    builder
}

fn exists(path: &Path) -> Result<bool, EmbeddedError> {
    path.try_exists().map_err(|source| EmbeddedError::io(path, source))
}

/// Refuses a directory or file that others may change: what is in the store is the whole cluster.
fn check(path: &Path) -> Result<(), EmbeddedError> {
    let metadata = std::fs::metadata(path).map_err(|source| EmbeddedError::io(path, source))?;
    let exposed = |what: String, remedy: String| EmbeddedError::Exposed {
        path: path.to_owned(),
        what,
        remedy,
    };
    let own = rustix::process::geteuid();
    if metadata.uid() != own.as_raw() && metadata.uid() != 0 {
        let what = format!("as it belongs to the user with the id {}", metadata.uid());
        return Err(exposed(what, format!("chown {}", own.as_raw())));
    }
    match metadata.mode() & 0o7777 {
        mode if mode & OTHERS_WRITE != 0 => Err(exposed(format!("as its mode is {mode:o}"), "chmod go-w".into())),
        _ => Ok(()),
    }
}

/// Makes the directory, and sees to it that a power failure does not take it back.
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

/// Makes an empty store under another name and renames it: a crash on the way leaves no file that cannot be read.
fn create(dir: &Path, path: &Path) -> Result<(), EmbeddedError> {
    let in_dir = |source| EmbeddedError::io(dir, source);
    let handle = File::open(dir).map_err(in_dir)?;
    // Of several that find no file, one makes it.
    handle.lock().map_err(in_dir)?;
    if exists(path)? {
        return Ok(());
    }
    let unfinished = dir.join(UNFINISHED);
    let made = || -> Result<(), redb::Error> {
        // One that a crash has left behind.
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
