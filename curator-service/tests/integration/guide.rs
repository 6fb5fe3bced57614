//! What the guides say, done as they say it: each block for a shell, whole, in its order.

mod blocks;
mod readers;
mod shell;
mod three_nodes;
mod up;

use std::fs;
use std::path::Path;
use std::process::Command;

use curator_harness::TempDir;
use curator_harness::curator::binary_from_env;
use curator_harness::process::{Finished, run};

use self::blocks::Guide;
use self::shell::{Host, Place};
use crate::test_cluster::SOON;

/// Without etcd, on one host. The first block, which runs until ctrl-c, is in `up.rs`.
#[test]
fn getting_started_is_done_as_it_is_written() {
    if crate::test_cluster::done_already() {
        return;
    }
    let scratch = TempDir::new("getting-started").unwrap();
    let place = Place::new(&scratch);
    let mut host = Host::new(&scratch, &place, "checkout", 1);
    host.builds_nothing();
    let mut guide = Guide::read("docs/getting-started.md");
    guide.next("cargo xtask up");
    for words in ["cargo build", "curator serve", "curatorctl status --wait"] {
        host.run(guide.next(words));
    }
    let told = host.output();
    assert!(told.contains("leader"), "{told}");
    // In the same context: what another page shows of it.
    let mut filters = Guide::read("docs/filters.md");
    host.run(filters.next("nodes list"));
    filters.done();
    host.run(guide.next("kill $!"));
    guide.done();
}

/// The README, on an etcd that there is.
#[test]
fn the_readme_is_done_as_it_is_written() {
    if crate::test_cluster::done_already() {
        return;
    }
    let scratch = TempDir::new("readme").unwrap();
    let place = Place::new(&scratch);
    let mut host = Host::new(&scratch, &place, "host", 1);
    let mut guide = Guide::read("README.md");
    // What it takes for granted.
    let etcd = "etcd --data-dir ./etcd.data --listen-client-urls http://127.0.0.1:2379 \
         --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 2>> etcd.log &\n\
         export ETCDCTL_API=3\n\
         until etcdctl --endpoints http://127.0.0.1:2379 endpoint health; do sleep 0.2; done\n";
    host.run(etcd);
    host.run(guide.next("curator bootstrap --etcd-endpoints"));
    host.run(guide.next("curator serve --etcd-endpoints"));
    host.run("mv /etc/curator/owner-key.pem owner-key.pem\n");
    host.run(guide.next("curatorctl cert ca"));
    host.run(guide.next("curatorctl status"));
    guide.done();
}

/// Runs a program of ours as a user who is nobody else, and sees how it ends.
fn as_user(user: u32, words: &[&str]) -> Finished {
    let mut command = Command::new("setpriv");
    let id = user.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    command.args(words);
    run(command, SOON).unwrap()
}

/// As root, the guide makes files that the unit's user cannot read until the block that gives them to it.
#[test]
fn the_units_user_can_read_what_the_guide_makes() {
    if crate::test_cluster::done_already() {
        return;
    }
    /// Nobody's on any host.
    const USER: u32 = 54_321;
    let scratch = TempDir::new("units-user").unwrap();
    let program = scratch.path().join("curator");
    fs::copy(binary_from_env().unwrap(), &program).unwrap();
    let program = program.to_str().unwrap();
    let can_run = rustix::process::geteuid().is_root() && Path::new("/usr/bin/setpriv").exists();
    if !can_run || !as_user(USER, &[program, "--version"]).status.success() {
        eprintln!("SKIPPED: only root becomes another user, with setpriv, and in a directory that all may enter");
        return;
    }
    let place = Place::new(&scratch);
    let mut host = Host::new(&scratch, &place, "host", 1);
    host.run("curator bootstrap --embedded ./first --credentials /etc/curator/credentials --tpm-mode best-effort\n");
    let credentials = host.path("etc/curator/credentials");
    let state = scratch.path().join("of-the-user");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(USER), Some(USER)).unwrap();
    // It reads the credentials, and then finds no store; or does not get as far.
    let serve = || {
        let words = [program, "serve", "--embedded", state.to_str().unwrap(), "--credentials"];
        let more = [credentials.to_str().unwrap(), "--advertise", "127.0.0.1:1"];
        as_user(USER, &[&words[..], &more[..]].concat())
    };
    let before = serve();
    assert!(
        before.stderr.contains("node-key.pem") || before.stderr.contains("ermission denied"),
        "{}",
        before.stderr
    );
    let mut guide = Guide::read("docs/running-three-nodes.md");
    let block = guide.find("chown -R").replace("curator:", &format!("{USER}:{USER}"));
    host.run(&block);
    let after = serve();
    // That there is no store is all that is wrong now.
    assert!(
        !after.stderr.contains("node-key.pem") && after.stderr.contains("no store"),
        "{}",
        after.stderr
    );
}
