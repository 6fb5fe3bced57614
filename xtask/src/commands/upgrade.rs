//! `cargo xtask upgrade`: instances of an earlier commit and of this one, in one cluster, one after the other replaced.
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use curator_harness::checkout::{root, shown};
use curator_harness::curator::EMBEDDING_BEFORE;
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound};
use curator_harness::step;

use crate::args::Args;
use crate::command::Command;
use crate::commands::integration::run_tests_with;
use crate::tools::etcd::Want;
use crate::workspace::{EMBED, EMBED_BEFORE, build_elsewhere};

/// The command.
pub const COMMAND: Command = Command {
    name: "upgrade",
    summary: "replaces instances of an earlier commit one by one under load, and takes them back",
    help: "Usage: cargo xtask upgrade [--from COMMIT] [--etcd WHICH]

Builds an earlier commit beside this one and runs three of its instances on a real etcd, with calls through all of
them. Then one after the other is stopped and started as this commit is, the leader last, and all the way back. No
call may be lost through those that stay, and none may run twice.

  --from COMMIT  the commit to come from. By default the newest tag; without one, the last commit of before
                 forwarded calls had a version.
  --etcd WHICH   the version to test against, as in `cargo xtask integration`

The earlier commit is checked out and built under target/upgrade, which takes minutes the first time.",
    run,
};

/// Where to come from as long as there is no tag.
const BEFORE: &str = "fb5d48a33d95765caa69154cbb6e63a0b34e9555";

/// The tests that are about this.
const TESTS: &str = "upgrade::";

fn run(mut args: Args) -> Result<()> {
    let want = Want::read(args.value("--etcd")?.as_deref())?;
    let from = args.value("--from")?;
    args.finish(0)?;
    let Some(commit) = find(from.as_deref())? else {
        step::say(format_args!(
            "==> upgrade: SKIPPED, for this checkout has no commit {BEFORE} and no tag: `git fetch --unshallow` brings them"
        ));
        return Ok(());
    };
    let before = build_commit(&commit)?;
    step::say(format_args!("upgrade from {commit}, which is {}", shown(&before)));
    run_tests_with(&want, 1, Some(TESTS), &[(EMBEDDING_BEFORE, &before)])
}

/// The commit to come from; `None` if nobody has named one, and this checkout does not have the usual one.
fn find(named: Option<&str>) -> Result<Option<String>> {
    if let Some(named) = named {
        return match hash(named) {
            Some(hash) => Ok(Some(hash)),
            None => Err(Error::usage(format!(
                "`--from {named}` is no commit that this checkout has"
            ))),
        };
    }
    let newest_tag = step::quiet(
        "name the newest tag",
        git(root(), &["tag", "--list", "--sort=-creatordate"]),
    )?;
    let tag = newest_tag.lines().next().map(str::trim).filter(|tag| !tag.is_empty());
    Ok(tag.and_then(hash).or_else(|| hash(BEFORE)))
}

fn hash(name: &str) -> Option<String> {
    let commit = format!("{name}^{{commit}}");
    let mut command = git(
        root(),
        &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit],
    );
    command.stderr(std::process::Stdio::null());
    let found = step::quiet("find the commit", command).ok()?;
    Some(found.trim().to_owned())
}

/// Its program for the tests.
fn build_commit(commit: &str) -> Result<PathBuf> {
    let beneath = root().join("target").join("upgrade");
    let (source, target) = (beneath.join("source"), beneath.join("build"));
    std::fs::create_dir_all(&beneath).context(|| format!("cannot create {}", shown(&beneath)))?;
    // What is left of one that was removed by hand.
    step::quiet("forget worktrees that are gone", git(root(), &["worktree", "prune"]))?;
    let checkout = if source.join(".git").exists() {
        git(&source, &["checkout", "--quiet", "--detach", commit])
    } else {
        let mut add = git(root(), &["worktree", "add", "--quiet", "--detach"]);
        add.arg(&source).arg(commit);
        add
    };
    step::quiet("check the earlier commit out", checkout)?;
    let program = if source.join("xtask/loads").exists() {
        EMBED
    } else {
        EMBED_BEFORE
    };
    build_elsewhere(program, &source, &target)
}

fn git(within: &Path, words: &[&str]) -> Process {
    let mut command = bound("git", Orphan::Kill);
    command.args(words).current_dir(within);
    command
}
