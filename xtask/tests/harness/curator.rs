//! The reading of a curator's log, on a script that logs in the same form.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use curator_harness::{CuratorOptions, CuratorProcess, Mark, Role, TempDir, wait_until};

const SOON: Duration = Duration::from_secs(10);

/// Logs its arguments, then a role, then another one when it is told to, and ends well on SIGTERM.
const SCRIPT: &str = r#"#!/bin/sh
trap 'exit 0' TERM
trap 'echo "{\"message\":\"role changed\",\"role\":\"leader\",\"lock_key\":\"k2\",\"lock_revision\":9,\"target\":\"curator::role\"}" >&2' USR1
trap 'echo "not json" >&2; exit 3' USR2
echo '{"message":"started","args":"'"$*"'","target":"curator"}' >&2
echo '{"message":"role changed","role":"undetermined","reason":"starting","target":"curator::role"}' >&2
echo '{"message":"role changed","role":"follower","leader":"metropolis-x","leader_address":"127.0.0.1:1","lock_key":"k","lock_revision":4,"target":"curator::role"}' >&2
while :; do sleep 0.02; done
"#;

fn script(scratch: &TempDir) -> PathBuf {
    let path = scratch.path().join("curator.sh");
    fs::write(&path, SCRIPT).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn roles_are_followed_through_signals_and_restarts() {
    let scratch = TempDir::new("curator").unwrap();
    let (notify, told) = channel();
    let mut options = CuratorOptions::new(
        1,
        vec!["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()],
    );
    options.notify = Some(notify);
    let mut curator = CuratorProcess::start(&script(&scratch), &scratch, options).unwrap();

    let started = curator
        .wait_for(Mark::START, SOON, "the start", |event| {
            event.message() == Some("started")
        })
        .unwrap();
    let args = started.text_of("args").unwrap();
    let address = curator.address();
    let expected = format!(
        "serve --node-id metropolis-00000000000000000000000000000001 --etcd-endpoints http://127.0.0.1:1,http://127.0.0.1:2 \
         --etcd-namespace namespaced:curator --election-prefix /leader --leader-ttl 5s --listen {address} --advertise {address} \
         --insecure-loopback-only --log-format json"
    );
    assert_eq!(args, expected);
    assert_eq!(told.recv_timeout(SOON).unwrap().0, "curator-1");

    let follower = curator
        .wait_for_role(Mark::START, SOON, "a leader to follow", |role| role.follows().is_some())
        .unwrap();
    assert_eq!(
        (follower.role.follows(), follower.role.lock_revision()),
        (Some("metropolis-x"), Some(4))
    );
    assert_eq!(curator.roles_since(Mark::START).len(), 2);

    let mark = curator.mark();
    curator.process().signal(rustix::process::Signal::USR1).unwrap();
    let change = curator.wait_for_role(mark, SOON, "to lead", Role::is_leader).unwrap();
    assert!(change.at > follower.at && change.run == 1);
    assert_eq!(
        curator.role(),
        Some(Role::Leader {
            lock_key: "k2".to_owned(),
            lock_revision: 9
        })
    );

    curator.kill().unwrap();
    assert_eq!(curator.role(), None, "one that has ended has no role");
    let mark = curator.mark();
    curator.restart().unwrap();
    let again = curator
        .wait_for_role(mark, SOON, "a leader to follow", |role| role.follows().is_some())
        .unwrap();
    assert_eq!((again.run, curator.address()), (2, address));
    curator.terminate().unwrap();
    assert_eq!(curator.wait_exit(SOON).unwrap().code(), Some(0));
}

#[test]
fn a_wait_ends_early_when_the_process_does() {
    let scratch = TempDir::new("curator").unwrap();
    let curator = CuratorProcess::start(&script(&scratch), &scratch, CuratorOptions::new(2, Vec::new())).unwrap();
    curator
        .wait_for_role(Mark::START, SOON, "a leader to follow", |role| role.follows().is_some())
        .unwrap();
    curator.process().signal(rustix::process::Signal::USR2).unwrap();
    let error = curator
        .wait_for_role(Mark::START, Duration::from_secs(600), "to lead", Role::is_leader)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("curator-2 ended by itself (exit status: 3)") && error.contains("not json"),
        "{error}"
    );
}

#[test]
fn a_wait_in_vain_tells_the_roles_that_there_were() {
    let scratch = TempDir::new("curator").unwrap();
    let curator = CuratorProcess::start(&script(&scratch), &scratch, CuratorOptions::new(3, Vec::new())).unwrap();
    wait_until("two roles", SOON, || {
        (curator.roles_since(Mark::START).len() == 2).then_some(())
    })
    .unwrap();
    let error = curator
        .wait_for_role(Mark::START, Duration::from_millis(50), "to lead", Role::is_leader)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("in vain for to lead of curator-3") && error.contains("metropolis-x"),
        "{error}"
    );
}
