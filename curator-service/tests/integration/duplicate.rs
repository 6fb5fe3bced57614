//! Two processes with one node id, as of a disk image that was copied: one of them leads, for good.

use std::time::Instant;

use curator_harness::{CuratorOptions, EtcdOptions, Mark, Role};

use crate::test_cluster::{Reach, SOON, TTL, TestCluster, measured};

fn with_the_id_of(stage: &TestCluster, curator: usize) -> impl FnOnce(CuratorOptions) -> CuratorOptions + use<> {
    let node_id = stage.curators[curator].node_id().to_owned();
    move |mut options| {
        options.node_id = node_id;
        options
    }
}

/// Waits until `curator` says that another process lives at the address of `other`.
fn tells_of(stage: &TestCluster, curator: usize, other: usize) {
    let said = format!(
        "at {} (this process: {})",
        stage.curators[other].address(),
        stage.curators[curator].address()
    );
    stage.curators[curator]
        .wait_for(Mark::START, SOON, "the other process", |event| {
            event
                .message()
                .is_some_and(|message| message.contains("another process campaigns") && message.contains(&said))
        })
        .unwrap();
}

fn times_led(stage: &TestCluster, curator: usize) -> usize {
    let roles = stage.curators[curator].roles_since(Mark::START);
    roles.iter().filter(|change| change.role.is_leader()).count()
}

#[test]
fn the_elder_of_two_with_one_id_leads_on_and_the_younger_one_says_so() {
    let mut stage = TestCluster::empty("one-id", EtcdOptions::default());
    let elder = stage.start(0, Reach::Own, |options| options);
    stage.curators[elder]
        .wait_for_role(Mark::START, SOON, "leading", Role::is_leader)
        .unwrap();
    let revision = stage.lock_revision(elder);
    let started = Instant::now();
    let twin = with_the_id_of(&stage, elder);
    let younger = stage.start(1, Reach::Own, twin);
    tells_of(&stage, younger, elder);
    measured("a second process with one id is named", started.elapsed(), TTL);
    assert_eq!((times_led(&stage, elder), times_led(&stage, younger)), (1, 0));
    assert_eq!(stage.candidates().len(), 1);
    assert_eq!(stage.lock_revision(elder), revision);
    // It is told once, and once again when it is known to live.
    let warnings = stage.curators[younger].events_since(Mark::START);
    let warnings = warnings.iter().filter(|event| event.text_of("level") == Some("WARN"));
    assert_eq!(
        warnings
            .filter(|event| event
                .message()
                .is_some_and(|message| message.contains("(this process:")))
            .count(),
        2
    );
    // When the elder one has gone, the younger one is there.
    let marks = stage.marks();
    stage.curators[elder].terminate().unwrap();
    stage.next_leader(&[younger], &marks, SOON);
}

#[test]
fn a_follower_whose_id_another_process_has_follows_on() {
    let (mut stage, leader) = TestCluster::elected("one-id-follows", Reach::Own, TTL, EtcdOptions::default());
    let follower = stage.others(leader)[0];
    let marks = stage.marks();
    let twin = with_the_id_of(&stage, follower);
    let younger = stage.start(0, Reach::Own, twin);
    tells_of(&stage, younger, follower);
    for (curator, mark) in marks.into_iter().enumerate() {
        let changes = stage.curators[curator].roles_since(mark);
        assert!(changes.is_empty(), "{}: {changes:?}", stage.curators[curator].name());
    }
    assert_eq!(stage.candidates().len(), 3);
    assert_eq!(times_led(&stage, younger), 0);
}

#[test]
fn of_two_with_one_id_that_start_at_once_one_leads_for_good() {
    let mut stage = TestCluster::empty("one-id-at-once", EtcdOptions::default());
    let one = stage.start(0, Reach::Own, |options| options);
    let twin = with_the_id_of(&stage, one);
    let another = stage.start(1, Reach::Own, twin);
    let marks = [Mark::START; 2];
    let (leader, _) = stage.next_leader(&[one, another], &marks, SOON);
    let other = one + another - leader;
    tells_of(&stage, other, leader);
    assert_eq!((times_led(&stage, leader), times_led(&stage, other)), (1, 0));
    let marks = stage.marks();
    stage.curators[leader].kill().unwrap();
    stage.next_leader(&[other], &marks, SOON);
}
