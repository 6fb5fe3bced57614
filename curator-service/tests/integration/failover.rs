//! A dead leader costs the failover limit, and etcd's own trouble costs no leader.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use curator_harness::{At, CuratorOptions, EtcdOptions, Mark, wait_until};

use crate::test_cluster::{Reach, SOON, TestCluster, measured};

/// So long that nothing in the scenarios comes of a lease that expires.
const TTL: Duration = Duration::from_secs(60);
/// The default failover limit.
const LIMIT: Duration = Duration::from_secs(1);

/// Whether an instance has logged a line that begins so.
fn logs(stage: &TestCluster, curator: usize, since: Mark, words: &str) -> usize {
    let events = stage.curators[curator].events_since(since);
    events.iter().filter(|event| event.text.contains(words)).count()
}

#[test]
fn killed_leader_is_replaced_within_the_failover_limit_however_long_its_lease() {
    let (mut stage, leader) = TestCluster::elected("limit-killed", Reach::Own, TTL, EtcdOptions::default());
    stage.spare_etcd_leader(leader);
    let marks = stage.marks();
    stage.silence(leader);
    let killed = Instant::now();
    stage.curators[leader].kill().unwrap();
    let (next, change) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("failover after SIGKILL with a limit of 1 s", change.at - killed, LIMIT);
    assert!(change.at - killed < LIMIT * 3, "{:?}", change.at - killed);
    let deposed: usize = stage
        .others(leader)
        .into_iter()
        .map(|other| logs(&stage, other, marks[other], "the oldest candidate did not refute"))
        .sum();
    assert_eq!(deposed, 1, "one of the others has deposed it");

    // The next one dies too: the last one neither waits for a lease.
    let last = (0..3).find(|at| ![leader, next].contains(at)).unwrap();
    let marks = stage.marks();
    stage.silence(next);
    let killed = Instant::now();
    stage.curators[next].kill().unwrap();
    let (_, change) = stage.next_leader(&[last], &marks, SOON);
    measured("failover of the next leader", change.at - killed, LIMIT);
    assert!(change.at - killed < LIMIT * 3, "{:?}", change.at - killed);
    stage.nobody_led_beside_another();
}

#[test]
fn stopped_leader_is_replaced_within_the_failover_limit_and_does_not_lead_when_it_wakes_up() {
    let (mut stage, leader) = TestCluster::elected("limit-stopped", Reach::Own, TTL, EtcdOptions::default());
    stage.spare_etcd_leader(leader);
    let marks = stage.marks();
    stage.silence(leader);
    let stopped = Instant::now();
    stage.curators[leader].pause().unwrap();
    let (next, change) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("failover after SIGSTOP with a limit of 1 s", change.at - stopped, LIMIT);
    assert!(change.at - stopped < LIMIT * 4, "{:?}", change.at - stopped);
    let mark = stage.curators[leader].mark();
    stage.curators[leader].resume().unwrap();
    assert_eq!(stage.agreed(SOON), next);
    let roles = stage.curators[leader].roles_since(mark);
    assert!(!roles.iter().any(|change| change.role.is_leader()), "{roles:?}");
    stage.nobody_led_beside_another();
}

#[test]
fn leader_goes_on_in_its_term_when_etcd_elects_a_leader_of_its_own() {
    let (stage, leader) = TestCluster::elected("limit-etcd", Reach::All, TTL, EtcdOptions::default());
    let revision = stage.lock_revision(leader);
    let marks = stage.marks();
    for _ in 0..2 {
        let member = stage.etcd.leader(SOON).unwrap();
        stage.etcd.kill(member).unwrap();
        let another = wait_until("another leader of etcd", SOON, || {
            stage.etcd.leader(SOON).ok().filter(|now| *now != member)
        });
        another.unwrap();
        stage.etcd.start_member(member).unwrap();
        stage.etcd.wait_healthy(SOON).unwrap();
        assert_eq!(stage.agreed(SOON), leader);
    }
    lasts(&stage, leader, revision, marks);
}

/// The term is the same, without a change of leader since the marks.
fn lasts(stage: &TestCluster, leader: usize, revision: i64, marks: Vec<Mark>) {
    assert_eq!(stage.agreed(SOON), leader);
    assert_eq!(stage.lock_revision(leader), revision, "the term is the same");
    for (curator, mark) in marks.into_iter().enumerate() {
        let roles = stage.curators[curator].roles_since(mark);
        assert!(!roles.iter().any(|change| change.role.is_leader()), "{roles:?}");
        assert_eq!(logs(stage, curator, mark, "the oldest candidate did not refute"), 0);
    }
}

#[test]
fn leader_goes_on_in_its_term_while_members_of_etcd_hang_are_defragmented_and_hand_over() {
    let (stage, leader) = TestCluster::elected("limit-etcd-hangs", Reach::All, TTL, EtcdOptions::default());
    let revision = stage.lock_revision(leader);
    let marks = stage.marks();
    // Each member hangs in turn, etcd's leader among them.
    for member in 0..3 {
        stage.etcd.pause(member).unwrap();
        let another = wait_until("another leader of etcd", SOON, || {
            stage.etcd.leader(SOON).ok().filter(|now| *now != member)
        });
        another.unwrap();
        // For as long as it would take to depose the leader.
        std::thread::sleep(LIMIT * 3);
        assert_eq!(stage.agreed(SOON), leader);
        stage.etcd.resume(member).unwrap();
        stage.etcd.wait_healthy(SOON).unwrap();
    }
    for to in 0..3 {
        stage.etcd.move_leader(to).unwrap();
        stage.etcd.etcdctl(At::Member(to), &["defrag"], SOON).unwrap();
    }
    lasts(&stage, leader, revision, marks);
}

#[test]
fn user_who_may_write_the_candidates_alone_leads_without_a_failover_limit() {
    let mut stage = TestCluster::empty("limit-refused", EtcdOptions::default());
    stage.etcd.add_user("narrow", "right", &[]).unwrap();
    // All but the challenge keys: `.` follows `-`.
    for (start, end) in [
        ("namespaced:", "namespaced:curator//leader-"),
        ("namespaced:curator//leader.", "namespaced;"),
    ] {
        let grant = ["role", "grant-permission", "narrow", "readwrite", start, end];
        stage.etcd.etcdctl(At::Any, &grant, SOON).unwrap();
    }
    stage.etcd.enable_auth("root").unwrap();
    let password = stage.scratch.path().join("narrow.password");
    fs::write(&password, "right\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let narrow = stage.start(0, Reach::All, |options| CuratorOptions {
        extra_args: vec![
            "--etcd-user".to_owned(),
            "narrow".to_owned(),
            "--etcd-password-file".to_owned(),
            password.display().to_string(),
        ],
        ..options
    });
    let refused = "the store refuses the challenge key";
    stage.curators[narrow]
        .wait_for(Mark::default(), SOON, refused, |event| event.text.contains(refused))
        .unwrap();
    let led = stage.curators[narrow].wait_for_role(Mark::default(), SOON, "leading", curator_harness::Role::is_leader);
    led.unwrap();
    assert_eq!(logs(&stage, narrow, Mark::default(), refused), 1);
    let (_, metrics) = stage.curators[narrow].observed("/metrics", SOON).unwrap();
    assert!(metrics.contains("\ncurator_failover_limit_seconds 0\n"), "{metrics}");
}
