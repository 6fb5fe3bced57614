//! The etcd cluster id file: it keeps the selected cluster id across restarts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// An error of the cluster id file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterFileError {
    /// The file cannot be read.
    #[error("cannot read the etcd cluster id file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The content is not a cluster id.
    #[error(
        "etcd cluster id file {} is invalid (not 1 to 16 hex digits): remove it to use the cluster of the endpoints",
        path.display()
    )]
    NotAnId {
        /// The file.
        path: PathBuf,
    },
}

/// The maximum number of bytes read. An id has at most 16 digits.
const MAX_TEXT: u64 = 64;

/// The id in the file; `None` if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<u64>, ClusterFileError> {
    let failed = |source| ClusterFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut bytes).map_err(failed)?;
    let id = str::from_utf8(&bytes)
        .ok()
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .filter(|id| *id != 0);
    id.map(Some)
        .ok_or_else(|| ClusterFileError::NotAnId { path: path.to_owned() })
}

/// Writes the id into the file atomically.
pub(super) fn write(path: &Path, id: u64) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    // Left behind by a process with the same pid that crashed.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
    let written = file
        .write_all(format!("{id:x}\n").as_bytes())
        .and_then(|()| file.sync_all());
    let moved = written.and_then(|()| fs::rename(&beside, path));
    if moved.is_err() {
        // The error is returned; a leftover temporary file is harmless.
        let _ = fs::remove_file(&beside);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let directory = std::env::temp_dir().join(format!("curator-pin-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("etcd-cluster");
        assert!(matches!(read(&path), Ok(None)));
        write(&path, 0xcdf8_1819_4e3a_8c32).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "cdf818194e3a8c32\n");
        assert_eq!(read(&path).unwrap(), Some(0xcdf8_1819_4e3a_8c32));
        assert_eq!(
            fs::read_dir(&directory).unwrap().count(),
            1,
            "something is left beside it"
        );
        for other in ["", "0", "xyz", "-1", "11112222333344445", &"1".repeat(1_000)] {
            fs::write(&path, other).unwrap();
            let text = read(&path).unwrap_err().to_string();
            assert!(text.contains("remove it"), "{text}");
        }
        assert!(matches!(read(&directory), Err(ClusterFileError::Read { .. })));
        assert!(write(&directory.join("none/etcd-cluster"), 1).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
