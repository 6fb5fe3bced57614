//! Programs on `PATH`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The first executable file of that name in the directories of `PATH`.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

/// Whether it is a file that someone may execute.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A program of the workspace that was built beside the test that is running.
///
/// # Panics
/// It was not built.
#[must_use]
pub fn built_beside(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test has a path");
    let found = test.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let found = found.into_iter().find(|path| is_executable(path));
    found.unwrap_or_else(|| panic!("there is no {name} beside {}: cargo build -p {name}", test.display()))
}
