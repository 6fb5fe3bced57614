//! `cargo xtask api`: the public API of each library as a list, so that a change of it is seen in review.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use curator_harness::checkout::{root, shown};
use curator_harness::error::{Context, Error, Result};
use curator_harness::step;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::tools::protoc;

/// The command.
pub const COMMAND: Command = Command {
    name: "api",
    summary: "compares the public API of the libraries with what is recorded in `api/`",
    help: "Usage: cargo xtask api [--write]

Lists the public items of the libraries (store, election, listener, identity, client, glue, service), and compares them with the lists in `api/`.
A difference is an error that shows it: with `--write` the lists are written anew, to be reviewed with the change that made
them. What curator-proto has is generated; `curator-proto/tests/wire_contract.txt` records what it is generated from.",
    run,
};

/// The libraries, each with the features that consumers use.
const LIBRARIES: [(&str, &str); 7] = [
    ("curator-store", "etcd,testing,embedded"),
    ("curator-election", "etcd,mock,testing,embedded,proto"),
    ("curator-listener", "mock"),
    ("curator-identity", ""),
    ("curator-client", ""),
    ("curator-glue", ""),
    ("curator-service", ""),
];

fn run(mut args: Args) -> Result<()> {
    let write = args.switch("--write")?;
    args.finish(0)?;
    protoc::ensure()?;
    compare(write)
}

/// Compares what there is with what is recorded, or records it.
///
/// # Errors
/// They differ, or the list cannot be had.
pub fn compare(write: bool) -> Result<()> {
    let rustdoc = rustdoc()?;
    let mut differing = Vec::new();
    for (library, features) in LIBRARIES {
        let now = list(library, features, &rustdoc)?;
        let file = root().join("api").join(format!("{library}.txt"));
        if write {
            fs::create_dir_all(root().join("api")).context(|| "cannot create `api`".to_owned())?;
            fs::write(&file, &now).context(|| format!("cannot write {}", file.display()))?;
            step::say(format_args!("{} lines in {}", now.lines().count(), shown(&file)));
            continue;
        }
        let recorded = fs::read_to_string(&file).context(|| format!("cannot read {}", file.display()))?;
        let difference = difference(&recorded, &now);
        if !difference.is_empty() {
            differing.push(format!("{library}:\n{}", difference.join("\n")));
        }
    }
    if differing.is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!(
            "the public API is another than the recorded one; if that is meant, `cargo xtask api --write`\n{}",
            differing.join("\n")
        )))
    }
}

/// rustdoc tells what there is as JSON only if it is told that this may change. cargo is not told, for that would have
/// it build everything anew.
fn rustdoc() -> Result<PathBuf> {
    let directory = root().join("target").join("api");
    fs::create_dir_all(&directory).context(|| format!("cannot create {}", directory.display()))?;
    let file = directory.join("rustdoc");
    fs::write(&file, "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n")
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)))
        .context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn list(library: &str, features: &str, rustdoc: &Path) -> Result<String> {
    let mut command = cargo(&["rustdoc", "--package", library, "--lib", "--features", features, "--"]);
    command.args([
        "-Z",
        "unstable-options",
        "--output-format",
        "json",
        "--cap-lints",
        "allow",
    ]);
    command.env("RUSTDOC", rustdoc);
    step::run(&format!("the public API of {library}"), command)?;
    let json = root()
        .join("target")
        .join("doc")
        .join(format!("{}.json", library.replace('-', "_")));
    let api = public_api::Builder::from_rustdoc_json(&json)
        // What each type is by itself: it would be most of the list.
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .map_err(|error| Error::new(format!("cannot read {}: {error}", json.display())))?;
    Ok(api.items().map(|item| format!("{item}\n")).collect())
}

/// The lines that only one of them has.
fn difference(recorded: &str, now: &str) -> Vec<String> {
    let only = |of: &str, but: &str, sign: &str| -> Vec<String> {
        let but: std::collections::HashSet<&str> = but.lines().collect();
        let lines = of.lines().filter(|line| !but.contains(line));
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    [only(recorded, now, "-"), only(now, recorded, "+")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_what_went_and_what_came() {
        assert_eq!(difference("a\nb\nc\n", "a\nc\nd\n"), ["- b", "+ d"]);
        assert!(difference("a\n", "a\n").is_empty());
    }
}
