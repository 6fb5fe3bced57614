//! Programs built with Go, of modules whose versions and hashes are ours.
use std::path::Path;
use std::process::Command;

use curator_harness::process::{Orphan, bound};

/// What builds a package of a module into a file. It downloads nothing that `go.sum` does not name.
pub(super) fn build(go: &Path, module: &Path, package: &str, to: &Path) -> Command {
    let mut build = bound(go, Orphan::Kill);
    build
        .args([
            "build",
            "-mod=readonly",
            "-buildvcs=false",
            "-trimpath",
            "-ldflags=-s -w",
            "-o",
        ])
        .arg(to)
        .arg(package)
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off");
    build
}
