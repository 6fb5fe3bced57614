//! `cargo xtask package`: the published packages, built from what would be published.

use std::fs;
use std::process::Command as Process;

use curator_harness::checkout::root;
use curator_harness::error::{Context, Error, Result};
use curator_harness::step;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::packaged::{self, Unpacked};
use crate::tools::protoc;

/// The command.
pub const COMMAND: Command = Command {
    name: "package",
    summary: "packs the published packages, and builds them from the packages",
    help: "Usage: cargo xtask package [--minimal-versions] [--docs]

Packs all published packages, unpacks them to `target/packaged`, and checks that each has its licence and its README and
builds with all features.

  --minimal-versions  with the lowest versions of the dependencies that the packages state; a build that fails asks
                      for a higher one in Cargo.toml
  --docs              builds the documentation as docs.rs does",
    run,
};

fn run(mut args: Args) -> Result<()> {
    let (minimal, docs) = (args.switch("--minimal-versions")?, args.switch("--docs")?);
    args.finish(0)?;
    protoc::ensure()?;
    let unpacked = step::timed("packages", packaged::unpack)?;
    if minimal {
        return minimal_versions();
    }
    if docs {
        return document(&unpacked);
    }
    step::run(
        "build the packages",
        in_packages(&["check", "--workspace", "--all-features"], true),
    )
}

/// A call of cargo in the workspace of the packages. With `shares`, it uses the target folder of this workspace.
fn in_packages(words: &[&str], shares: bool) -> Process {
    let mut command = cargo(words);
    command.current_dir(packaged::directory());
    command.env("PROTOC", root().join("tools/protoc"));
    if shares {
        command.env("CARGO_TARGET_DIR", root().join("target"));
    }
    command
}

/// A build with the lowest versions that the packages state of what they depend on directly.
fn minimal_versions() -> Result<()> {
    let lock = packaged::directory().join("Cargo.lock");
    fs::remove_file(&lock).context(|| format!("cannot remove {}", lock.display()))?;
    let mut update = in_packages(&["update", "-Z", "direct-minimal-versions"], false);
    // The option is not stable yet.
    update.env("RUSTC_BOOTSTRAP", "1");
    step::run("choose the lowest versions", update)?;
    // Into its own folder: hardly any dependency is the same as in other builds.
    let check = in_packages(
        &["check", "--workspace", "--all-features", "--locked", "--keep-going"],
        false,
    );
    step::run("build with the lowest versions", check)
}

/// The documentation, with what the packages say to docs.rs.
fn document(unpacked: &[Unpacked]) -> Result<()> {
    for package in unpacked {
        let manifest = package.directory.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).context(|| format!("cannot read {}", manifest.display()))?;
        if !package.directory.join("src/lib.rs").exists() {
            continue;
        }
        if !text.contains("[package.metadata.docs.rs]") {
            return Err(Error::new(format!("{} says nothing to docs.rs", package.name)));
        }
        let words = ["doc", "--no-deps", "--all-features", "--package", &package.name];
        let mut doc = in_packages(&words, true);
        doc.env("RUSTDOCFLAGS", "--cfg docsrs -D warnings");
        doc.env("RUSTC_BOOTSTRAP", "1");
        step::run(&format!("document {}", package.name), doc)?;
    }
    Ok(())
}
