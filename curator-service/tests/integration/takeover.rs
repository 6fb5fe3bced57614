//! Leaders that end, and who comes after them.

use std::time::{Duration, Instant};

use curator_election::LeaderValue;
use curator_proto::private::LeaderElectionValue;
use xtask::harness::{EtcdOptions, Mark};

use crate::stage::{Reach, SCAN, SOON, Stage, TTL, measured};

#[test]
fn one_leads_and_the_others_follow_it() {
    let (stage, leader) = Stage::elected("elect", Reach::Own, TTL, EtcdOptions::default());
    let candidates = stage.candidates();
    assert_eq!(candidates.len(), 3);
    let value = LeaderElectionValue::decode(&candidates[0].value).unwrap();
    assert_eq!(value.node_id, stage.curators[leader].node_id());
    assert_eq!(value.ttl, TTL.as_secs());
    assert_eq!(
        value.advertised_addresses,
        [stage.curators[leader].address().to_string()]
    );
    assert_eq!(candidates[0].create_revision, stage.lock_revision(leader));
    assert_eq!(
        candidates[0].key_text(),
        format!("namespaced:curator//leader/{:x}", candidates[0].lease)
    );
    stage.nobody_led_beside_another();
}

#[test]
fn a_killed_leader_is_replaced_within_its_lease_and_a_scan() {
    let (mut stage, leader) = Stage::elected("sigkill", Reach::Own, TTL, EtcdOptions::default());
    let marks = stage.marks();
    stage.silence(leader);
    let killed = Instant::now();
    stage.curators[leader].kill().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    let took = next.at - killed;
    measured("failover after SIGKILL", took, TTL);
    assert!(took <= TTL + SCAN + Duration::from_millis(250), "{took:?}");
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn a_terminated_leader_hands_over_without_waiting_for_its_lease() {
    let (stage, leader) = Stage::elected("sigterm", Reach::Own, TTL, EtcdOptions::default());
    let marks = stage.marks();
    let told = Instant::now();
    stage.curators[leader].terminate().unwrap();
    let down = stage.steps_down(leader, marks[leader], SOON);
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("handover after SIGTERM", next.at - told, TTL);
    assert!(next.at - told < TTL / 4, "{:?}", next.at - told);
    assert!(down.at <= next.at + Duration::from_millis(150));
    assert!(stage.curators[leader].wait_exit(SOON).unwrap().success());
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn a_leader_killed_and_restarted_does_not_wait_for_its_own_lease() {
    // A long TTL, so that a wait for it could not be taken for anything else.
    let ttl = Duration::from_secs(20);
    let (mut stage, leader) = Stage::elected("restart", Reach::Own, ttl, EtcdOptions::default());
    let old_key = stage.candidates()[0].key_text();
    let marks = stage.marks();
    stage.silence(leader);
    let killed = Instant::now();
    stage.curators[leader].restart().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, ttl);
    measured("failover after kill and restart", next.at - killed, ttl);
    assert!(next.at - killed < ttl / 4, "{:?}", next.at - killed);
    stage.agreed(SOON);
    let keys: Vec<_> = stage.candidates().iter().map(|kv| kv.key_text()).collect();
    assert!(keys.len() == 3 && !keys.contains(&old_key), "{keys:?}");
    stage.nobody_led_beside_another();
}

#[test]
fn a_leader_that_wakes_up_after_its_lease_never_claims_its_old_term() {
    let (mut stage, leader) = Stage::elected("sigstop", Reach::Own, TTL, EtcdOptions::default());
    let old = stage.lock_revision(leader);
    let marks = stage.marks();
    stage.silence(leader);
    let stopped = Instant::now();
    stage.curators[leader].pause().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("failover after SIGSTOP", next.at - stopped, TTL);
    let mark = stage.curators[leader].mark();
    let woken = Instant::now();
    stage.curators[leader].resume().unwrap();
    let down = stage.steps_down(leader, mark, SOON);
    measured("step down after SIGCONT", down.at - woken, TTL);
    assert!(down.at - woken < TTL / 4, "{:?}", down.at - woken);
    stage.agreed(SOON);
    let again = stage.curators[leader].roles_since(mark);
    assert!(
        again.iter().all(|change| change.role.lock_revision() != Some(old)),
        "{again:?}"
    );
    stage.nobody_led_beside_another();
}

#[test]
fn two_namespaces_elect_apart() {
    let mut stage = Stage::empty("namespaces", EtcdOptions::default());
    let one = stage.start(0, Reach::Own, |options| options);
    let two = stage.start(1, Reach::Own, |mut options| {
        options.etcd_namespace = "namespaced:another".to_owned();
        options
    });
    for curator in [one, two] {
        stage.curators[curator]
            .wait_for_role(Mark::START, SOON, "leading", |role| role.is_leader())
            .unwrap();
    }
    assert_eq!(stage.candidates().len(), 1);
}
