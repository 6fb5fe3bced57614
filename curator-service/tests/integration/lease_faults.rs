//! Leases that are taken away, and news that come late or not at all.

use std::time::{Duration, Instant};

use curator_harness::{At, Deadline, Direction, EtcdOptions, Flow, Role};

use crate::test_cluster::{Reach, SOON, TTL, TestCluster, measured};

#[test]
fn a_leader_whose_lease_is_revoked_steps_down_at_once() {
    let ttl = Duration::from_secs(10);
    let (stage, leader) = TestCluster::elected("revoked", Reach::Own, ttl, EtcdOptions::default());
    let old = stage.candidates()[0].clone();
    let marks = stage.marks();
    let revoked = Instant::now();
    stage.etcd.lease_revoke(At::Any, old.lease).unwrap();
    let down = stage.steps_down(leader, marks[leader], SOON);
    measured(
        "step down when its lease is revoked",
        down.at.saturating_duration_since(revoked),
        ttl,
    );
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured(
        "failover when its lease is revoked",
        next.at.saturating_duration_since(revoked),
        ttl,
    );
    let (down_after, next_after) = (
        down.at.saturating_duration_since(revoked),
        next.at.saturating_duration_since(revoked),
    );
    assert!(
        down_after < ttl / 4 && next_after < ttl / 4,
        "{down_after:?}, {next_after:?}"
    );
    assert_ne!(next.role.lock_revision(), Some(old.create_revision));
    stage.agreed(SOON);
    // Nothing can tell a leader beforehand: for the time of one watch push there are two who believe to lead, and the
    // guard on each access to state is what parts them. So there is no check here that no two terms overlap.
}

#[test]
fn a_candidate_whose_lease_is_revoked_queues_again_at_the_end() {
    let ttl = Duration::from_secs(10);
    let (stage, leader) = TestCluster::elected("queued", Reach::Own, ttl, EtcdOptions::default());
    let candidates = stage.candidates();
    let queue = stage.queue();
    let marks = stage.marks();
    let revoked = Instant::now();
    stage.etcd.lease_revoke(At::Any, candidates[1].lease).unwrap();
    curator_harness::wait_until("it to queue again", SOON, || {
        (stage.queue() == [leader, queue[2], queue[1]]).then_some(())
    })
    .unwrap();
    measured("queued again when its lease is revoked", revoked.elapsed(), ttl);
    stage.agreed(SOON);
    // The one that led leads on, and the one that queued before leads next.
    assert_eq!(stage.curators[leader].roles_since(marks[leader]).len(), 0);
    stage.curators[leader].terminate().unwrap();
    let (next, change) = stage.next_leader(&queue[1..], &marks, SOON);
    assert_eq!(next, queue[2]);
    assert_eq!(change.role.lock_revision(), Some(candidates[2].create_revision));
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn a_candidate_whose_key_is_gone_does_not_win_with_it() {
    let ttl = Duration::from_secs(10);
    let (stage, leader) = TestCluster::elected("gone", Reach::Own, ttl, EtcdOptions::default());
    let candidates = stage.candidates();
    let queue = stage.queue();
    let (second, third) = (queue[1], queue[2]);
    let marks = stage.marks();
    // It does not run while its lease goes and the one before it goes: when it wakes up, the end of the one before it
    // is all that its campaign has been waiting for.
    stage.curators[second].pause().unwrap();
    stage.etcd.lease_revoke(At::Any, candidates[1].lease).unwrap();
    stage.curators[leader].terminate().unwrap();
    let (next, change) = stage.next_leader(&[third], &marks, SOON);
    assert_eq!(next, third);
    stage.curators[second].resume().unwrap();
    let id = stage.curators[third].node_id();
    stage.curators[second]
        .wait_for_role(marks[second], SOON, "following", |role| {
            role.follows() == Some(id) && role.lock_revision() == change.role.lock_revision()
        })
        .unwrap();
    let roles = stage.curators[second].roles_since(marks[second]);
    assert!(roles.iter().all(|change| !change.role.is_leader()), "{roles:?}");
    curator_harness::wait_until("it to queue again", SOON, || {
        (stage.queue() == [third, second]).then_some(())
    })
    .unwrap();
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

fn with_client_proxies() -> EtcdOptions {
    EtcdOptions {
        client_proxies: true,
        ..EtcdOptions::default()
    }
}

#[test]
fn connections_that_are_closed_are_made_again() {
    let (stage, leader) = TestCluster::elected("closed", Reach::Own, TTL, with_client_proxies());
    let mark = stage.curators[leader].mark();
    for _ in 0..3 {
        let proxy = stage.etcd.client_proxy(leader).unwrap();
        let before = proxy.stats().accepted;
        proxy.close_connections();
        curator_harness::wait_until("a new connection", SOON, || {
            (proxy.stats().accepted > before).then_some(())
        })
        .unwrap();
    }
    let deadline = Deadline::after(2 * TTL);
    let changed = stage.curators[leader].wait_for_role(mark, deadline.remaining(), "a change", |_| true);
    assert!(changed.is_err() && deadline.passed(), "{changed:?}");
    stage.nobody_led_beside_another();
}

#[test]
fn late_replies_do_not_stretch_a_term() {
    let (stage, leader) = TestCluster::elected("late", Reach::Own, TTL, with_client_proxies());
    let marks = stage.marks();
    let late = TTL.mul_f64(0.9);
    stage
        .etcd
        .client_proxy(leader)
        .unwrap()
        .set(Direction::ToClient, Flow::Delay(late));
    let begun = Instant::now();
    // It cannot renew in time: each renewal is known to have worked only when almost all of it is over.
    let down = stage.steps_down(leader, marks[leader], 5 * TTL);
    measured("step down with replies delayed by 0.9 TTL", down.at - begun, TTL);
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    assert!(down.at < next.at);
    stage.etcd.client_proxy(leader).unwrap().pass().unwrap();
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn a_leader_cut_off_from_its_member_steps_down_within_its_lease() {
    let (stage, leader) = TestCluster::elected("blackhole", Reach::Own, TTL, with_client_proxies());
    let marks = stage.marks();
    let begun = Instant::now();
    stage.etcd.client_proxy(leader).unwrap().blackhole();
    let down = stage.steps_down(leader, marks[leader], SOON);
    measured("step down when cut off from etcd", down.at - begun, TTL);
    assert!(down.at - begun < TTL);
    assert_eq!(down.role, Role::Undetermined);
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("failover when cut off from etcd", next.at - begun, TTL);
    assert!(down.at < next.at);
    stage.etcd.client_proxy(leader).unwrap().pass().unwrap();
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}
