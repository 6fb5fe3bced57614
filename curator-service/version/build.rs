//! Says which version this is: of the package, and of the source if that is known.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let directory = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let directory = Path::new(&directory);
    let commit = packaged(directory)
        .or_else(|| checked_out(directory))
        .unwrap_or_default();
    let version = match commit.as_str() {
        "" => version,
        commit => format!("{version} ({commit})"),
    };
    println!("cargo:rustc-env=CURATOR_VERSION={version}");
    println!("cargo:rustc-env=CURATOR_COMMIT={commit}");
}

/// A package carries the commit that it was made from.
fn packaged(directory: &Path) -> Option<String> {
    let info = fs::read_to_string(directory.join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = info.split_once("\"sha1\"")?;
    commit(rest.split('"').nth(1)?)
}

/// The commit that is checked out, if this very directory is what git keeps: a copy of it may lie within another
/// repository.
fn checked_out(directory: &Path) -> Option<String> {
    git(directory, &["ls-files", "--error-unmatch", "build.rs"])?;
    // It has a line more after each commit and each checkout.
    if let Some(log) = git(directory, &["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={}", directory.join(log).display());
    }
    commit(&git(directory, &["rev-parse", "HEAD"])?)
}

fn git(directory: &Path, args: &[&str]) -> Option<String> {
    let done = Command::new("git").args(args).current_dir(directory).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    done.status.success().then(|| text.trim().to_owned())
}

/// As much of it as people read.
fn commit(hash: &str) -> Option<String> {
    let short = hash.get(..12)?;
    short.bytes().all(|c| c.is_ascii_hexdigit()).then(|| short.to_owned())
}
