//! What etcd does to the curators that rely on it.

use std::time::Duration;

use curator_harness::{At, Deadline, EtcdBinaries, EtcdCluster, EtcdOptions, Mark, Role};

use crate::test_cluster::{Reach, SCAN, SOON, TTL, TestCluster, measured};

/// A change of etcd's own leader gives leases their full TTL once more, and an election timeout.
const ETCD_ELECTION: Duration = Duration::from_secs(6);

/// Watches that a curator's role does not change for a while; fails at the first change.
fn role_stays(stage: &TestCluster, curator: usize, mark: Mark, time: Duration) {
    let deadline = Deadline::after(time);
    let changed = stage.curators[curator].wait_for_role(mark, deadline.remaining(), "a change", |_| true);
    assert!(changed.is_err(), "{changed:?}");
    assert!(deadline.passed(), "the process ended: {changed:?}");
}

/// Cuts the leader's member off from the others, with etcd's own leader on the same side or on the other.
fn cut_off(label: &str, with_etcd_leader: bool) {
    let (stage, leader) = TestCluster::elected(label, Reach::Own, TTL, EtcdOptions::default());
    let etcd_leader = if with_etcd_leader { leader } else { (leader + 1) % 3 };
    stage.make_etcd_leader(etcd_leader);
    let old = stage.candidates()[0].clone();
    assert_eq!(stage.curator_of(&old), leader, "moving etcd's leader moved ours");
    let watch = stage.watch_key(&old, (leader + 1) % 3);
    let marks = stage.marks();
    let cut = std::time::Instant::now();
    stage.etcd.isolate(leader).unwrap();
    let down = stage.steps_down(leader, marks[leader], SOON);
    assert_eq!(down.role, Role::Undetermined);
    measured(&format!("step down when {label}"), down.at - cut, TTL);
    let (next, change) = stage.next_leader(&stage.others(leader), &marks, TTL + ETCD_ELECTION + SOON);
    measured(&format!("failover when {label}"), change.at - cut, TTL);
    let deleted = watch.deleted(SOON);
    measured(
        &format!("key gone after the step down when {label}"),
        deleted - down.at,
        TTL,
    );
    assert!(
        down.at < deleted && down.at < change.at,
        "the old leader steps down while its key is still there"
    );
    if !with_etcd_leader {
        assert!(down.at - cut < TTL, "by its own clock: {:?}", down.at - cut);
        assert!(change.at - cut <= TTL + SCAN, "{:?}", change.at - cut);
    }
    let Role::Leader {
        lock_key,
        lock_revision,
    } = change.role
    else {
        unreachable!()
    };
    assert!(!old.key_text().ends_with(&lock_key) && lock_revision > old.create_revision);
    let third = stage.others(leader).into_iter().find(|at| *at != next).unwrap();
    let id = stage.curators[next].node_id();
    stage.curators[third]
        .wait_for_role(marks[third], SOON, "following", |role| {
            role.follows() == Some(id) && role.lock_revision() == Some(lock_revision)
        })
        .unwrap();
    assert_eq!(stage.curators[leader].role(), Some(Role::Undetermined));
    let healed = std::time::Instant::now();
    stage.etcd.heal().unwrap();
    // Who leads then is open: a member that comes back with a later raft term makes etcd elect once more, which may
    // take longer than a lease.
    stage.agreed(SOON + SOON);
    measured(&format!("agreement once healed, {label}"), healed.elapsed(), TTL);
    stage.nobody_led_beside_another();
}

#[test]
fn a_leader_cut_off_with_its_member_steps_down_before_another_leads() {
    cut_off("cut off", false);
}

/// The harder case: a member that leads etcd goes on renewing leases by itself until it notices that nobody follows it.
#[test]
fn a_leader_cut_off_with_etcds_leader_steps_down_before_another_leads() {
    cut_off("cut off with etcd's leader", true);
}

#[test]
fn a_leader_whose_member_hangs_goes_on_through_another() {
    let ttl = Duration::from_secs(3);
    let (stage, leader) = TestCluster::elected("hang", Reach::All, ttl, EtcdOptions::default());
    stage.spare_etcd_leader(leader);
    let mark = stage.curators[leader].mark();
    assert!(stage.curators[leader].role().is_some_and(|role| role.is_leader()));
    stage.etcd.pause(leader).unwrap();
    role_stays(&stage, leader, mark, 3 * ttl);
    stage.etcd.resume(leader).unwrap();
    stage.nobody_led_beside_another();
}

/// The member that wakes up at the end may be a former leader of etcd. It then may revoke the leases that it knows,
/// that of the next leader too: `docs/etcd-versions.md`.
#[test]
fn a_leader_whose_only_member_hangs_steps_down_before_another_leads() {
    let (stage, leader) = TestCluster::elected("hang-alone", Reach::Own, TTL, EtcdOptions::default());
    let key = stage.candidates()[0].clone();
    let watch = stage.watch_key(&key, (leader + 1) % 3);
    let marks = stage.marks();
    let hung = std::time::Instant::now();
    stage.etcd.pause(leader).unwrap();
    let down = stage.steps_down(leader, marks[leader], SOON);
    measured("step down when its member hangs", down.at - hung, TTL);
    assert!(down.at - hung < TTL, "by its own clock: {:?}", down.at - hung);
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, TTL + ETCD_ELECTION + SOON);
    measured("failover when its member hangs", next.at - hung, TTL);
    let deleted = watch.deleted(SOON);
    measured(
        "key gone after the step down when its member hangs",
        deleted - down.at,
        TTL,
    );
    assert!(down.at < deleted && down.at < next.at);
    stage.etcd.resume(leader).unwrap();
    stage.agreed(SOON + SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn a_follower_whose_member_hangs_learns_of_the_next_leader() {
    let ttl = Duration::from_secs(3);
    let (stage, leader) = TestCluster::elected("observer", Reach::All, ttl, EtcdOptions::default());
    // The last of the queue, so that there is somebody else for it to follow.
    let follower = stage.queue()[2];
    stage.spare_etcd_leader(follower);
    let queue = stage.queue();
    assert_eq!(
        (queue[0], queue[2]),
        (leader, follower),
        "moving etcd's leader moved the queue"
    );
    let marks = stage.marks();
    stage.etcd.pause(follower).unwrap();
    stage.curators[leader].terminate().unwrap();
    let (next, change) = stage.next_leader(&[queue[1], follower], &marks, SOON);
    assert_eq!(next, queue[1], "the order of the queue");
    let id = stage.curators[next].node_id();
    let told = stage.curators[follower]
        .wait_for_role(marks[follower], SOON, "news", |role| role.follows() == Some(id))
        .unwrap();
    let late = told.at.saturating_duration_since(change.at);
    measured("news to a follower whose member hangs", late, ttl);
    assert!(late < 2 * ttl, "{late:?}");
    stage.etcd.resume(follower).unwrap();
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn without_etcd_nobody_leads_and_with_it_one_does_again() {
    let (stage, leader) = TestCluster::elected("outage", Reach::All, TTL, EtcdOptions::default());
    let marks = stage.marks();
    let stopped = std::time::Instant::now();
    stage.etcd.kill_all().unwrap();
    for (at, curator) in stage.curators.iter().enumerate() {
        let down = curator
            .wait_for_role(marks[at], SOON, "undetermined", |role| *role == Role::Undetermined)
            .unwrap();
        let what = if at == leader {
            "step down without etcd"
        } else {
            "follower gives up without etcd"
        };
        measured(what, down.at.saturating_duration_since(stopped), TTL);
    }
    stage.etcd.start_all().unwrap();
    stage.etcd.wait_healthy(SOON + SOON).unwrap();
    let back = std::time::Instant::now();
    stage.agreed(SOON + SOON);
    measured("agreement once etcd is back", back.elapsed(), TTL);
    stage.nobody_led_beside_another();
}

#[test]
fn a_service_started_before_etcd_waits_for_it() {
    let scratch = curator_harness::TempDir::new("early").unwrap();
    let binaries = EtcdBinaries::from_env().unwrap();
    let etcd = EtcdCluster::prepare(&binaries, &scratch, EtcdOptions::default()).unwrap();
    let options = curator_harness::CuratorOptions::new(1, etcd.endpoints()).leader_ttl(TTL);
    let binary = curator_harness::curator::binary_from_env().unwrap();
    let curator = curator_harness::CuratorProcess::start(&binary, &scratch, options).unwrap();
    curator
        .wait_for(Mark::START, SOON, "waiting", |event| {
            event.message() == Some("waiting for etcd")
        })
        .unwrap();
    assert_eq!(curator.role(), Some(Role::Undetermined));
    etcd.start_all().unwrap();
    curator
        .wait_for_role(Mark::START, SOON + SOON, "leading", Role::is_leader)
        .unwrap();
    curator.terminate().unwrap();
    assert!(curator.wait_exit(SOON).unwrap().success());
    assert!(
        etcd.get_prefix(At::Any, "namespaced:curator//leader/")
            .unwrap()
            .is_empty(),
        "it has resigned"
    );
}
