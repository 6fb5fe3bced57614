//! The binary as a user meets it.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use curator_harness::curator::binary_from_env;
use curator_harness::process::{Finished, run};

const SOON: Duration = Duration::from_secs(20);

fn curator(args: &[&str]) -> Finished {
    let mut command = Command::new(binary_from_env().unwrap());
    command.args(args);
    run(command, SOON).unwrap()
}

const GOOD: [&str; 6] = [
    "serve",
    "--insecure-loopback-only",
    "--node-id",
    "node-1",
    "--etcd-endpoints",
    "http://127.0.0.1:2379",
];

#[test]
fn bad_values_are_answered_with_what_is_right() {
    if crate::test_cluster::done_already() {
        return;
    }
    let cases: [(&[&str], &str); 8] = [
        (&["--leader-ttl", "ten"], "such as 500ms, 10s or 2m"),
        (&["--leader-ttl", "10"], "missing unit"),
        (&["--listen", "everywhere"], "such as 127.0.0.1:7835"),
        (&["--listen", "0.0.0.0:7835"], "not a loopback address"),
        (&["--advertise", "nowhere"], "use host:port"),
        (&["--etcd-namespace", "a/b"], "namespaced:curator"),
        (&["--election-prefix", "leader/"], "for example /leader"),
        (&["--log-format", "xml"], "text, json"),
    ];
    for (args, right) in cases {
        let finished = curator(&[&GOOD[..], args].concat());
        assert_eq!(finished.status.code(), Some(2), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(right), "{args:?}: {}", finished.stderr);
    }
    let finished = curator(&[
        "serve",
        "--insecure-loopback-only",
        "--node-id",
        "a/b",
        "--etcd-endpoints",
        "http://127.0.0.1:2379",
    ]);
    assert!(
        finished.status.code() == Some(2) && finished.stderr.contains("invalid node id"),
        "{}",
        finished.stderr
    );
    let finished = curator(&[
        "serve",
        "--insecure-loopback-only",
        "--node-id",
        "a",
        "--etcd-endpoints",
        "127.0.0.1:2379",
    ]);
    assert!(
        finished.status.code() == Some(2) && finished.stderr.contains("http://"),
        "{}",
        finished.stderr
    );
}

#[test]
fn an_address_in_use_is_named_and_ends_with_1() {
    if crate::test_cluster::done_already() {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = curator(&[&GOOD[..], &["--listen", &address]].concat());
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains(&address), "{}", finished.stderr);
}
