//! Clients and candidates that others wrote, as `cargo xtask integration` tells the tests where they are.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Error, Result};
use crate::process::{Orphan, bound};
use crate::which::{is_executable, on_path};

/// The environment variable with the directory of the clients.
pub const CLIENTS: &str = "CURATOR_CLIENTS_DIR";

/// The environment variable with the path of the candidate on Go's election library. Unset where it cannot be built.
pub const GO_CANDIDATE: &str = "CURATOR_GO_CANDIDATE_BIN";

/// The clients that `cargo xtask setup` brought.
#[derive(Clone, Debug)]
pub struct Clients(PathBuf);

impl Clients {
    /// `None` if [`CLIENTS`] is not set.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        std::env::var_os(CLIENTS).map(|directory| Self(directory.into()))
    }

    /// The test clients on gRPC libraries of other languages: the name of each, its program and its first arguments.
    #[must_use]
    pub fn ours(&self) -> Vec<(&'static str, PathBuf, Vec<PathBuf>)> {
        let at = |path: &str| self.0.join(path);
        let mut found = Vec::new();
        let python = at("clients-python/bin/python");
        if is_executable(&python) {
            found.push(("python", python, vec![at("clients-python/client.py")]));
        }
        let script = at("clients-node/client.js");
        if let (true, Some(node)) = (script.is_file(), on_path("node")) {
            found.push(("node", node, vec![script]));
        }
        let go = at("clients-go/client");
        if is_executable(&go) {
            found.push(("go", go, Vec::new()));
        }
        found
    }

    /// A program of others, if it is here: brought by `cargo xtask setup`, or on `PATH`.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<Command> {
        let brought = self.0.join("clients-go").join(name);
        let path = if is_executable(&brought) {
            Some(brought)
        } else {
            on_path(name)
        };
        path.map(|path| bound(path, Orphan::Kill))
    }
}

/// The candidate that `cargo xtask integration` built, if it could.
///
/// # Errors
/// When the variable [`GO_CANDIDATE`] names no file.
pub fn go_candidate() -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os(GO_CANDIDATE).map(PathBuf::from) else {
        return Ok(None);
    };
    if !path.is_file() {
        return Err(Error::new(format!("{GO_CANDIDATE} names no file: {}", path.display())));
    }
    Ok(Some(path))
}
