//! `etcdctl elect`, and a program of our own on Go's election library, in one election with ours.

use curator_election::LeaderValue;
use curator_harness::{At, Capture, EtcdOptions, Mark, ProcessSpec, Recorded, foreign};
use curator_proto::private::LeaderElectionValue;

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

const ELECTION: &str = "namespaced:curator//leader";
const STRANGER: &str = "metropolis-ffffffffffffffffffffffffffffffff";

fn value() -> String {
    let value = LeaderElectionValue {
        node_id: STRANGER.to_owned(),
        ttl: 60,
        advertised_addresses: vec![],
        ..Default::default()
    };
    String::from_utf8(value.encode()).unwrap()
}

#[test]
fn etcdctl_leads_and_ours_follow_and_take_over() {
    let mut stage = TestCluster::empty("etcdctl-leads", EtcdOptions::default());
    let other = stage.etcdctl_candidate();
    for member in 0..2 {
        stage.start(member, Reach::Own, |options| options);
    }
    stage.all_follow_the_stranger();
    let queue = stage.candidates();
    assert_eq!(queue.len(), 3);
    assert_eq!(queue[0].value, value().into_bytes());
    // Its lease goes, and with it its key.
    let marks = stage.marks();
    drop(other);
    stage.etcd.lease_revoke(At::Any, queue[0].lease).unwrap();
    let (leader, change) = stage.next_leader(&[0, 1], &marks, SOON);
    assert_eq!(
        change.role.lock_revision(),
        Some(queue[1].create_revision),
        "the order of the queue"
    );
    assert_eq!(stage.agreed(SOON), leader);
    stage.nobody_led_beside_another();
}

#[test]
fn etcdctl_queues_behind_ours_and_its_observer_sees_ours() {
    let mut stage = TestCluster::empty("etcdctl-queues", EtcdOptions::default());
    for member in 0..2 {
        stage.start(member, Reach::Own, |options| options);
    }
    let leader = stage.agreed(SOON);
    let observer = stage
        .etcd
        .etcdctl_start("observer", 2, &["elect", "--listen", ELECTION])
        .unwrap();
    let id = stage.curators[leader].node_id().to_owned();
    observer
        .wait_line(Mark::START, SOON, |line| line.contains(&id))
        .unwrap();
    let other = stage.etcdctl_candidate_behind(2);
    // The two before it go, one after the other; both resign.
    let marks = stage.marks();
    let second = stage.others(leader)[0];
    stage.curators[leader].terminate().unwrap();
    let (next, _) = stage.next_leader(&[second], &marks, SOON);
    assert_eq!(next, second);
    let id = stage.curators[second].node_id().to_owned();
    observer
        .wait_line(Mark::START, SOON, |line| line.contains(&id))
        .unwrap();
    stage.curators[second].terminate().unwrap();
    // etcdctl prints its key once it has won.
    other
        .wait_line(Mark::START, SOON, |line| line.contains(ELECTION))
        .unwrap();
    observer
        .wait_line(Mark::START, SOON, |line| line.contains(STRANGER))
        .unwrap();
    // One of ours that comes back follows it.
    let back = stage.start(0, Reach::Own, |options| options.leader_ttl(TTL));
    stage.curators[back]
        .wait_for_role(Mark::START, SOON, "following", |role| role.follows() == Some(STRANGER))
        .unwrap();
    stage.nobody_led_beside_another();
}

impl TestCluster {
    fn all_follow_the_stranger(&self) {
        for curator in &self.curators {
            curator
                .wait_for_role(Mark::START, SOON, "following", |role| role.follows() == Some(STRANGER))
                .unwrap();
        }
    }

    /// Starts `etcdctl elect`.
    fn etcdctl_elect(&self) -> Recorded {
        self.etcd
            .etcdctl_start("etcdctl-elect", 2, &["elect", ELECTION, &value()])
            .unwrap()
    }

    /// Starts `etcdctl elect` and waits until it leads.
    fn etcdctl_candidate(&self) -> Recorded {
        let other = self.etcdctl_elect();
        other
            .wait_line(Mark::START, SOON, |line| line.contains(ELECTION))
            .unwrap();
        other
    }

    /// Starts `etcdctl elect` and waits until it queues behind so many.
    fn etcdctl_candidate_behind(&self, ahead: usize) -> Recorded {
        let other = self.etcdctl_elect();
        curator_harness::wait_until("etcdctl to queue", SOON, || {
            let queue = self.candidates();
            (queue.len() == ahead + 1 && queue[ahead].value == value().into_bytes()).then_some(())
        })
        .unwrap();
        other
    }
}

#[test]
fn a_go_candidate_leads_and_queues_among_ours() {
    let mut stage = TestCluster::empty("go", EtcdOptions::default());
    let Some(binary) = foreign::go_candidate().unwrap() else {
        println!("SKIPPED: no Go candidate could be built here");
        return;
    };
    let start = |stage: &TestCluster, name: &str| {
        let arguments = [&stage.etcd.client_url(2), ELECTION, &value(), "2"];
        let spec = ProcessSpec::new(name, &binary).args(arguments).capture(Capture::Stdout);
        Recorded::start(&spec, &stage.scratch).unwrap()
    };
    let first = start(&stage, "go-first");
    first
        .wait_line(Mark::START, SOON, |line| line.starts_with("leading at"))
        .unwrap();
    for member in 0..2 {
        stage.start(member, Reach::Own, |options| options);
    }
    stage.all_follow_the_stranger();
    let second = start(&stage, "go-second");
    curator_harness::wait_until("the second to queue", SOON, || {
        (stage.candidates().len() == 4).then_some(())
    })
    .unwrap();
    // It resigns; ours take over in their order, and the second one last.
    let queue = stage.candidates();
    let marks = stage.marks();
    let told = std::time::Instant::now();
    first.process.terminate().unwrap();
    let (leader, change) = stage.next_leader(&[0, 1], &marks, SOON);
    crate::test_cluster::measured("ours takes over from a Go leader that resigns", change.at - told, TTL);
    assert_eq!(
        change.role.lock_revision(),
        Some(queue[1].create_revision),
        "the order of the queue"
    );
    let id = stage.curators[leader].node_id().to_owned();
    second
        .wait_line(Mark::START, SOON, |line| {
            line.contains("observed") && line.contains(&id)
        })
        .unwrap();
    for at in [leader, stage.others(leader)[0]] {
        stage.curators[at].terminate().unwrap();
        stage.curators[at].wait_exit(SOON).unwrap();
    }
    let led = second
        .wait_line(Mark::START, SOON, |line| line.starts_with("leading at"))
        .unwrap();
    assert_eq!(led.text, format!("leading at {}", queue[3].create_revision));
    stage.nobody_led_beside_another();
}
