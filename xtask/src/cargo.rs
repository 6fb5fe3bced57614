//! Calls of cargo.

use std::env;
use std::ffi::OsString;
use std::process::{Command, Stdio};

use curator_harness::checkout::root;
use curator_harness::process::{Orphan, bound};

/// A call of the cargo that runs us, in the root, with nothing to read.
pub fn cargo(words: &[&str]) -> Command {
    let mut command = bound(
        env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")),
        Orphan::Terminate,
    );
    command.args(words).current_dir(root()).stdin(Stdio::null());
    command
}
