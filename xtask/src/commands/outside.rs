//! `cargo xtask outside`: programs of others, on the packages as they are published.

use std::fs;

use curator_harness::checkout::root;
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound};
use curator_harness::step;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::packaged;
use crate::tools::protoc;

/// The command.
pub const COMMAND: Command = Command {
    name: "outside",
    summary: "builds and runs programs as other teams would write them, on the packages",
    help: "Usage: cargo xtask outside

Packs the published packages, unpacks them to `target/packaged`, builds the programs in `tests/outside` on them, and runs
each: a scheduler, a log shipper, a client of the API, an embedder of the service, an election on a file lock, and stores
against the conformance suite. Each program asserts what it does.",
    run,
};

/// The folder of the programs.
const FOLDER: &str = "tests/outside";

fn run(args: Args) -> Result<()> {
    args.finish(0)?;
    run_tests()
}

/// Builds and runs all of them.
///
/// # Errors
/// With the first program that cannot be built, or fails.
pub fn run_tests() -> Result<()> {
    protoc::ensure()?;
    step::timed("packages", packaged::unpack)?;
    let folder = root().join(FOLDER);
    // The versions that are locked here, so that dependencies are built once.
    let lock = folder.join("Cargo.lock");
    fs::copy(root().join("Cargo.lock"), &lock).context(|| format!("cannot write {}", lock.display()))?;
    let target = root().join("target");
    let mut build = cargo(&["build", "--workspace"]);
    build.current_dir(&folder).env("CARGO_TARGET_DIR", &target);
    build.env("PROTOC", root().join("tools/protoc"));
    step::run("build the programs outside", build)?;
    let programs = programs()?;
    step::timed("run the programs outside", || {
        for name in &programs {
            let program = bound(target.join("debug").join(format!("outside-{name}")), Orphan::Kill);
            step::quiet(&format!("run {name}"), program)?;
        }
        Ok(())
    })
}

/// The names of the programs.
fn programs() -> Result<Vec<String>> {
    let folder = root().join(FOLDER);
    let entries = fs::read_dir(&folder).context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("cannot read {}", folder.display()))?;
        if entry.path().join("Cargo.toml").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        return Err(Error::new(format!("no program in {FOLDER}")));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found() {
        let found = programs().expect("the folder");
        assert!(found.iter().any(|name| name == "scheduler"), "{found:?}");
    }
}
