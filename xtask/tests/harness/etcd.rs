//! Real etcd clusters under the faults that the product's tests will rely on.

use std::time::{Duration, Instant};

use curator_harness::{At, EtcdBinaries, EtcdCluster, EtcdOptions, Flow, Mark, TempDir, wait_until};
use xtask::tools::etcd::{Want, select};

use crate::process::exists;

const SOON: Duration = Duration::from_secs(20);

fn binaries() -> EtcdBinaries {
    select(&Want::First).unwrap().remove(0).binaries
}

/// Half of etcd's own timing, so that elections take less of a test's time.
fn quick() -> EtcdOptions {
    EtcdOptions {
        heartbeat: Duration::from_millis(50),
        election_timeout: Duration::from_millis(500),
        ..EtcdOptions::default()
    }
}

#[test]
fn etcdctl_shows_keys_leases_and_revisions() {
    let scratch = TempDir::new("etcd").unwrap();
    let etcd = EtcdCluster::start(&binaries(), &scratch, EtcdOptions { members: 1, ..quick() }).unwrap();
    let ctl = |args: &[&str]| etcd.etcdctl(At::Any, args, SOON).unwrap();
    let before = etcd.revision(At::Any).unwrap();
    let lease = ctl(&["lease", "grant", "300"])
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_owned();
    ctl(&["put", &format!("--lease={lease}"), "ns/b", "two"]);
    ctl(&["put", "ns/a", "one"]);
    ctl(&["put", "other", "three"]);

    let keys = etcd.get_prefix(At::Member(0), "ns/").unwrap();
    assert_eq!(
        keys.iter().map(|kv| kv.key_text()).collect::<Vec<_>>(),
        ["ns/b", "ns/a"],
        "in the order of their creation"
    );
    assert_eq!(
        (keys[0].value.as_slice(), keys[0].create_revision),
        (&b"two"[..], before + 1)
    );
    let id = i64::from_str_radix(&lease, 16).unwrap();
    assert_eq!((keys[0].lease, keys[1].lease), (id, 0));
    assert_eq!(etcd.leases(At::Any).unwrap(), [id]);
    let info = etcd.lease_time_to_live(At::Any, id).unwrap();
    assert_eq!(
        (info.granted, info.keys.as_slice()),
        (Duration::from_secs(300), &[b"ns/b".to_vec()][..])
    );

    let watch = etcd.watch_prefix("watch", 0, "ns/").unwrap();
    // A key that is put again and again tells when the watch has begun.
    wait_until("the watch to begin", SOON, || {
        ctl(&["put", "ns/begin", "x"]);
        watch
            .wait_line(Mark::START, Duration::from_millis(100), |line| line == "ns/begin")
            .ok()
    })
    .unwrap();
    etcd.lease_revoke(At::Any, id).unwrap();
    watch.wait_line(Mark::START, SOON, |line| line == "DELETE").unwrap();
    assert_eq!(etcd.get(At::Any, "ns/b").unwrap(), None);
    assert_eq!(etcd.lease_time_to_live(At::Any, id).unwrap().remaining, None);

    let revision = etcd.revision(At::Any).unwrap();
    etcd.compact(At::Any, revision).unwrap();
    let old = etcd
        .etcdctl(At::Any, &["get", "ns/a", "--rev", &before.to_string()], SOON)
        .unwrap_err();
    assert!(old.chain().contains("compacted"), "{}", old.chain());
}

#[test]
fn a_member_that_is_cut_off_has_no_quorum_and_the_others_go_on() {
    let scratch = TempDir::new("etcd").unwrap();
    let etcd = EtcdCluster::start(&binaries(), &scratch, quick()).unwrap();
    let old = etcd.leader(SOON).unwrap();
    let others: Vec<_> = (0..3).filter(|member| *member != old).collect();

    etcd.isolate(old).unwrap();
    etcd.wait_member_unhealthy(old, SOON).unwrap();
    for other in &others {
        etcd.wait_member_healthy(*other, SOON).unwrap();
    }
    let new = etcd.leader(SOON).unwrap();
    assert!(others.contains(&new));
    etcd.etcdctl(At::Member(new), &["put", "while", "cut"], SOON).unwrap();
    // A read that needs no quorum shows that nothing has reached the one that is cut off. It answers, for clients reach
    // it.
    let stale = ["get", "while", "--consistency=s", "--print-value-only"];
    assert_eq!(etcd.etcdctl(At::Member(old), &stale, SOON).unwrap().trim(), "");

    etcd.heal().unwrap();
    etcd.wait_healthy(SOON).unwrap();
    assert_eq!(etcd.get(At::Member(old), "while").unwrap().unwrap().value, b"cut");
    assert_eq!(
        etcd.network().unwrap().strangers(),
        0,
        "a connection's opener was not known"
    );

    // A follower that is cut off changes nothing for the others. Members hand the renewal of a lease on to their leader
    // by a request that does not say who sends it: even before the follower feels the cut, none gets through.
    let leader = etcd.leader(SOON).unwrap();
    let follower = (0..3).find(|member| *member != leader).unwrap();
    let granted = etcd
        .etcdctl(At::Member(follower), &["lease", "grant", "300"], SOON)
        .unwrap();
    let renew = [
        "lease",
        "keep-alive",
        "--once",
        granted.split_whitespace().nth(1).unwrap(),
    ];
    assert!(
        etcd.etcdctl(At::Member(follower), &renew, SOON)
            .unwrap()
            .contains("keepalived")
    );
    etcd.isolate(follower).unwrap();
    let renewed = etcd.etcdctl(At::Member(follower), &renew, Duration::from_secs(2));
    assert!(
        !renewed.is_ok_and(|said| said.contains("keepalived with TTL")),
        "a renewal got through"
    );
    etcd.wait_member_unhealthy(follower, SOON).unwrap();
    assert_eq!(etcd.leader(SOON).unwrap(), leader);
    etcd.heal().unwrap();
    etcd.wait_healthy(SOON).unwrap();
}

#[test]
fn one_link_alone_can_be_held() {
    let scratch = TempDir::new("etcd").unwrap();
    let etcd = EtcdCluster::start(&binaries(), &scratch, quick()).unwrap();
    etcd.move_leader(0).unwrap();
    // The followers lose each other, which neither of them needs: both still hear their leader.
    etcd.set_link(1, 2, Flow::Hold).unwrap();
    etcd.set_link(2, 1, Flow::Hold).unwrap();
    etcd.wait_healthy(SOON).unwrap();
    assert_eq!(etcd.leader(SOON).unwrap(), 0);
    // Now member 1 hears nothing, although it can be heard: it loses its leader.
    etcd.set_link(0, 1, Flow::Hold).unwrap();
    etcd.wait_member_unhealthy(1, SOON).unwrap();
    assert!(etcd.is_healthy(2) && etcd.is_healthy(0));
    etcd.heal().unwrap();
    etcd.wait_healthy(SOON).unwrap();
}

#[test]
fn members_are_paused_killed_and_brought_back_and_nothing_stays_behind() {
    let scratch = TempDir::new("etcd").unwrap();
    let directory = scratch.path().to_owned();
    let etcd = EtcdCluster::start(
        &binaries(),
        &scratch,
        EtcdOptions {
            client_proxies: true,
            ..quick()
        },
    )
    .unwrap();
    etcd.etcdctl(At::Any, &["put", "key", "value"], SOON).unwrap();

    etcd.pause(1).unwrap();
    etcd.wait_member_unhealthy(1, SOON).unwrap();
    etcd.wait_member_healthy(0, SOON).unwrap();
    let asked = Instant::now();
    assert!(
        etcd.etcdctl(At::Member(1), &["get", "key"], Duration::from_millis(700))
            .is_err()
    );
    assert!(asked.elapsed() < Duration::from_secs(5), "the bound was not kept");
    etcd.resume(1).unwrap();
    etcd.wait_healthy(SOON).unwrap();

    let before = etcd.pid(2).unwrap();
    etcd.kill(2).unwrap();
    assert!(!exists(before) && etcd.pid(2).is_err() && !etcd.is_healthy(2));
    etcd.start_member(2).unwrap();
    etcd.wait_healthy(SOON).unwrap();
    assert_ne!(etcd.pid(2).unwrap(), before);
    assert_eq!(etcd.get(At::Member(2), "key").unwrap().unwrap().value, b"value");
    etcd.stop(2, SOON).unwrap();
    etcd.restart(0).unwrap();
    etcd.start_all().unwrap();
    etcd.wait_healthy(SOON).unwrap();

    assert_ne!(etcd.client_url(0), etcd.direct_client_url(0));
    assert_eq!(
        etcd.client_proxy(0).unwrap().stats().accepted,
        0,
        "the harness itself goes around the proxies"
    );

    let pids: Vec<_> = (0..3).map(|member| etcd.pid(member).unwrap()).collect();
    etcd.pause(0).unwrap();
    drop(etcd);
    assert_eq!(pids.iter().filter(|pid| exists(**pid)).count(), 0);
    drop(scratch);
    assert!(!directory.exists());
}

#[test]
fn a_member_that_cannot_start_is_told_with_its_log() {
    let scratch = TempDir::new("etcd").unwrap();
    let options = EtcdOptions {
        members: 1,
        extra_args: vec!["--no-such-flag".to_owned()],
        ..quick()
    };
    let error = EtcdCluster::start(&binaries(), &scratch, options)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("ended by itself") && error.contains("no-such-flag"),
        "{error}"
    );
}
