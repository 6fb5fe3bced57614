//! Instances under a parent, and `curator release`: a dead instance costs no TTL, and nothing but death counts as that.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use curator_harness::curator::binary_from_env;
use curator_harness::process::{Finished, run};
use curator_harness::{At, CuratorOptions, EtcdOptions, Mark, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::test_cluster::{Reach, SCAN, SOON, TTL, TestCluster, measured, resident};

const LONG: Duration = Duration::from_secs(10);

fn supervised(label: &str, ttl: Duration) -> (TestCluster, usize) {
    let mut stage = TestCluster::empty(label, EtcdOptions::default());
    for member in 0..3 {
        stage.start(member, Reach::All, |options| CuratorOptions {
            // The scenarios are about the lease, which the others would not wait for.
            extra_args: vec!["--supervised".into(), "--failover-limit=off".into()],
            ..options.leader_ttl(ttl)
        });
    }
    let leader = stage.agreed(SOON);
    (stage, leader)
}

/// The process of the instance itself, in its newest run.
fn instance(stage: &TestCluster, curator: usize, since: Mark) -> Pid {
    let told = |event: &curator_harness::Event| event.message() == Some("instance started");
    let event = stage.curators[curator]
        .wait_for(since, SOON, "the instance", told)
        .unwrap();
    let pid = event.fields["child"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn is_there(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

#[test]
fn an_instance_that_dies_under_its_parent_costs_no_ttl() {
    let (mut stage, mut leader) = supervised("dies", LONG);
    let pid = instance(&stage, leader, Mark::START);
    println!(
        "measured: {} kB in the parent, {} kB in the instance",
        resident(stage.curators[leader].pid()),
        resident(pid.as_raw_nonzero())
    );
    let mut took = Vec::new();
    let mut since = [Mark::START; 3];
    for signal in [
        Signal::KILL,
        Signal::ABORT,
        Signal::KILL,
        Signal::ILL,
        Signal::KILL,
        Signal::ABORT,
        Signal::KILL,
    ] {
        let pid = instance(&stage, leader, since[leader]);
        let marks = stage.marks();
        let killed = Instant::now();
        kill_process(pid, signal).unwrap();
        let (next, change) = stage.next_leader(&stage.others(leader), &marks, SOON);
        took.push(change.at - killed);
        let code = stage.curators[leader].wait_exit(SOON).unwrap().code();
        assert_eq!(code, Some(128 + signal.as_raw()), "the parent ends as the instance did");
        since[leader] = stage.curators[leader].mark();
        stage.curators[leader].restart().unwrap();
        assert_eq!(stage.agreed(SOON), next);
        leader = next;
    }
    took.sort();
    println!("failover under a parent, all rounds: {took:?}");
    measured("median failover under a parent", took[took.len() / 2], LONG);
    assert!(took.iter().all(|took| *took < LONG / 5), "{took:?}");
}

/// Whether all its threads stand still: a signal takes its time to reach each of them.
fn is_stopped(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in brackets.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

#[test]
fn a_parent_killed_with_its_instance_leaves_it_to_the_ttl() {
    let (stage, leader) = supervised("both", TTL);
    let pid = instance(&stage, leader, Mark::START);
    let marks = stage.marks();
    // The parent cannot act on the instance's end. The other way round would not do: the kernel continues a stopped
    // process whose group is left without a parent, and it hands over.
    let parent = Pid::from_raw(stage.curators[leader].pid().try_into().unwrap()).unwrap();
    kill_process(parent, Signal::STOP).unwrap();
    wait_until("the parent to stand still", SOON, || is_stopped(parent).then_some(())).unwrap();
    let killed = Instant::now();
    kill_process(pid, Signal::KILL).unwrap();
    stage.curators[leader].kill().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    let took = next.at - killed;
    measured("failover when the parent is killed too", took, TTL);
    assert!(took > TTL / 4 && took < TTL + 2 * SCAN, "{took:?}");
}

#[test]
fn an_instance_whose_parent_is_gone_hands_over_and_ends() {
    let (stage, leader) = supervised("orphan", LONG);
    let pid = instance(&stage, leader, Mark::START);
    let marks = stage.marks();
    let killed = Instant::now();
    stage.curators[leader].kill().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("handover when the parent is killed", next.at - killed, LONG);
    assert!(next.at - killed < LONG / 5, "{:?}", next.at - killed);
    wait_until("the instance to end", SOON, || (!is_there(pid)).then_some(())).unwrap();
}

#[test]
fn an_instance_that_is_stopped_keeps_its_lease() {
    let (stage, leader) = supervised("stopped", LONG);
    let pid = instance(&stage, leader, Mark::START);
    let lease = stage.candidates()[0].lease;
    let revision = stage.lock_revision(leader);
    let marks = stage.marks();
    kill_process(pid, Signal::STOP).unwrap();
    // Ten times as long as the lease of a dead one takes to be given back.
    let until = Instant::now() + LONG / 4;
    while Instant::now() < until {
        let left = stage.etcd.lease_time_to_live(At::Any, lease).unwrap().remaining;
        assert!(left.is_some(), "the lease of a living instance was given back");
    }
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(stage.agreed(SOON), leader);
    assert_eq!(stage.lock_revision(leader), revision);
    assert!(stage.curators[leader].roles_since(marks[leader]).is_empty());
}

#[test]
fn sigterm_goes_through_the_parent_and_hands_over() {
    let (stage, leader) = supervised("terminated", LONG);
    let lease = stage.candidates()[0].lease;
    let marks = stage.marks();
    let told = Instant::now();
    stage.curators[leader].terminate().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("handover through the parent", next.at - told, LONG);
    assert!(next.at - told < LONG / 5);
    assert_eq!(stage.curators[leader].wait_exit(SOON).unwrap().code(), Some(0));
    assert!(!stage.etcd.leases(At::Any).unwrap().contains(&lease));
    let given_back = |event: &curator_harness::Event| event.message() == Some("instance exited: revoking its lease");
    assert!(
        !stage.curators[leader]
            .events_since(marks[leader])
            .iter()
            .any(given_back)
    );
}

fn release(stage: &TestCluster, directory: &Path) -> Finished {
    let mut command = Command::new(binary_from_env().unwrap());
    command
        .arg("release")
        .args(["--etcd-endpoints", &stage.etcd.endpoints().join(",")])
        .arg("--runtime-dir")
        .arg(directory);
    run(command, SOON).unwrap()
}

#[test]
fn release_gives_a_dead_instances_lease_back_and_no_living_ones() {
    let mut stage = TestCluster::empty("release", EtcdOptions::default());
    for member in 0..3 {
        let directory = stage.scratch.path().join(format!("run-{member}"));
        fs::create_dir(&directory).unwrap();
        stage.start(member, Reach::All, |options| CuratorOptions {
            extra_args: vec!["--runtime-dir".into(), directory.display().to_string()],
            ..options.leader_ttl(LONG)
        });
    }
    let leader = stage.agreed(SOON);
    let directory = stage.scratch.path().join(format!("run-{leader}"));
    let lease = stage.candidates()[0].lease;
    // Not of one that lives, nor of one that is stopped.
    for stopped in [false, true] {
        if stopped {
            stage.curators[leader].pause().unwrap();
        }
        let refused = release(&stage, &directory);
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains("is alive"), "{}", refused.stderr);
        assert!(stage.etcd.leases(At::Any).unwrap().contains(&lease));
    }
    let marks = stage.marks();
    stage.curators[leader].kill().unwrap();
    let killed = Instant::now();
    let released = release(&stage, &directory);
    assert!(released.status.success(), "{}", released.stderr);
    assert!(released.stdout.contains("1 leases"), "{}", released.stdout);
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("failover by `curator release`", next.at - killed, LONG);
    assert!(next.at - killed < LONG / 5, "{:?}", next.at - killed);
    let again = release(&stage, &directory);
    assert!(again.stdout.contains("0 leases"), "{} {}", again.stdout, again.stderr);
    // The next instance there takes the file over.
    stage.curators[leader].restart().unwrap();
    stage.agreed(SOON);
    assert_eq!(release(&stage, &directory).status.code(), Some(1));
}
