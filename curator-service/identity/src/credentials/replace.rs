//! Replacing the certificate in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::files::certificate_pem;
use crate::is_certificate;

/// Atomically replaces the certificate in a file. Owner, mode and encoding (PEM or DER) stay the same.
///
/// # Errors
/// If the file does not exist or cannot be replaced.
pub fn replace_certificate(path: &Path, der: &[u8]) -> io::Result<()> {
    let there = fs::metadata(path)?;
    let bytes = if is_certificate(&fs::read(path)?) {
        der.to_vec()
    } else {
        certificate_pem(der).into_bytes()
    };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".new");
    let partial = PathBuf::from(partial);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(there.mode() & 0o777)
        .open(&partial)?;
    let written = (|| {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (there.uid(), there.gid()) {
            fchown(&file, Some(there.uid()), Some(there.gid()))?;
        }
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    })();
    if written.is_err() {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::{Directory, authority, node};

    #[test]
    fn what_is_replaced_keeps_its_mode_and_form() {
        let directory = Directory::new("renewal");
        let (path, der) = (directory.path().join("node.pem"), node(&authority()).2);
        assert!(replace_certificate(&path, &der).is_err(), "nothing is made");
        fs::write(&path, certificate_pem(&der)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let next = node(&authority()).2;
        // What a crash has left is in nobody's way.
        fs::write(directory.path().join("node.pem.new"), "half").unwrap();
        replace_certificate(&path, &next).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), certificate_pem(&next));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        fs::write(&path, &der).unwrap();
        replace_certificate(&path, &next).unwrap();
        assert_eq!(fs::read(&path).unwrap(), next, "as the original keeps it");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
