//! A leader that etcd hears and no other instance does.

use std::time::{Duration, Instant};

use curator_harness::{EtcdOptions, Event, Mark, Role};

use crate::test_cluster::{Reach, SOON, TTL, TestCluster, measured};

/// Until the others say so, for as long as they have to, and with all looks in between.
const MAKES_WAY: Duration = Duration::from_secs(25);

/// Three instances, each behind a proxy, and who leads.
fn stage(label: &str) -> (TestCluster, usize) {
    let mut stage = TestCluster::empty(label, EtcdOptions::default());
    for member in 0..3 {
        stage.start(member, Reach::All, |mut options| {
            options.behind_proxy = true;
            options
        });
    }
    let leader = stage.agreed(SOON);
    (stage, leader)
}

#[test]
fn a_leader_that_no_other_instance_reaches_makes_way_and_not_again() {
    if crate::test_cluster::done_already() {
        return;
    }
    let (stage, leader) = stage("unreached");
    let others = stage.others(leader);
    let marks = stage.marks();
    let cut = Instant::now();
    // Where it says that it is nobody answers; etcd is reached as before.
    stage.curators[leader].proxy().unwrap().blackhole();
    let (next, change) = stage.next_leader(&others, &marks, MAKES_WAY);
    measured(
        "led by another after a leader was not reached any more",
        change.at.saturating_duration_since(cut),
        TTL,
    );
    let says = |at: usize, mark: Mark, what: &str| {
        let found = |event: &Event| event.text.contains(what);
        stage.curators[at].wait_for(mark, SOON, what, found).unwrap();
    };
    says(
        leader,
        marks[leader],
        "this leader is unreachable for all other instances",
    );
    says(
        others[0],
        marks[others[0]],
        "the leader is unreachable from this instance",
    );
    assert_eq!(stage.agreed(SOON), next);
    let (code, metrics) = stage.curators[leader].observed("/metrics", SOON).unwrap();
    assert_eq!(code, 200);
    assert!(metrics.contains("\ncurator_made_way_total 1"), "{metrics}");

    // The next one is cut off as well: one that makes way in a minute is enough.
    let marks = stage.marks();
    stage.curators[next].proxy().unwrap().blackhole();
    says(next, marks[next], "within the last minute");
    let changes: Vec<_> = (0..3)
        .flat_map(|at| stage.curators[at].roles_since(marks[at]))
        .collect();
    assert!(changes.is_empty(), "{changes:?}");
    stage.nobody_led_beside_another();
}

/// Nothing would be gained by another leader.
#[test]
fn a_leader_stays_where_no_instance_reaches_another() {
    if crate::test_cluster::done_already() {
        return;
    }
    let (stage, leader) = stage("unreached-all");
    let marks = stage.marks();
    for curator in &stage.curators {
        curator.proxy().unwrap().blackhole();
    }
    stage.curators[leader]
        .wait_for(marks[leader], MAKES_WAY, "that it stays", |event| {
            event
                .text
                .contains("no other instance is reachable either, so it stays")
        })
        .unwrap();
    assert!(stage.curators[leader].role().as_ref().is_some_and(Role::is_leader));
    let changes: Vec<_> = (0..3)
        .flat_map(|at| stage.curators[at].roles_since(marks[at]))
        .collect();
    assert!(changes.is_empty(), "{changes:?}");
}
