//! A leader that renews its lease, and serves nobody.

use std::time::{Duration, Instant};

use curator_echo::proto::SayRequest;
use curator_echo::proto::echo_client::EchoClient;
use curator_harness::curator::embedding_from_env;
use curator_harness::{CuratorOptions, EtcdOptions, Role};
use tonic::transport::Channel;

use crate::test_cluster::{Reach, SOON, TestCluster};

/// So long that nothing in the scenario comes of it.
const TTL: Duration = Duration::from_secs(60);
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// The id of a call that blocks its thread.
const FATAL: u64 = 7;

#[test]
fn a_leader_whose_thread_is_blocked_gives_up_and_does_not_come_back() {
    if crate::test_cluster::done_already() {
        return;
    }
    let mut stage = TestCluster::empty("stuck", EtcdOptions::default());
    for member in 0..2 {
        let number = u32::try_from(member + 1).unwrap();
        let mut options = CuratorOptions::new(number, stage.endpoints(member, Reach::All)).leader_ttl(TTL);
        options.extra_args = vec![
            format!("--stuck-after={}ms", STUCK_AFTER.as_millis()),
            format!("--block-on={FATAL}"),
        ];
        stage.start_program(&embedding_from_env().unwrap(), options);
    }
    let leader = stage.agreed(SOON);
    let follower = 1 - leader;
    let (marks, blocked) = ([0, 1].map(|curator| stage.curators[curator].mark()), Instant::now());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let call = async {
        let at = format!("http://{}", stage.curators[leader].address());
        let mut caller = EchoClient::new(Channel::from_shared(at).unwrap().connect_lazy());
        let request = SayRequest {
            id: FATAL,
            ..SayRequest::default()
        };
        tokio::time::timeout(STUCK_AFTER / 2, caller.say(request)).await
    };
    assert!(runtime.block_on(call).is_err(), "nobody answers it");

    let next = stage.curators[follower]
        .wait_for_role(marks[follower], SOON, "leading instead", Role::is_leader)
        .unwrap();
    // It was asked a quarter of the limit before it was blocked at most, and is slow to be asked again once.
    let took = next.at.saturating_duration_since(blocked);
    println!("measured: led by another {took:?} after the thread was blocked, with a limit of {STUCK_AFTER:?}");
    assert!(took < STUCK_AFTER * 3, "{took:?}");
    stage.curators[leader]
        .wait_for(marks[leader], SOON, "why", |event| {
            event
                .text
                .contains("liveness check failed: this instance was unable to serve for too long")
        })
        .unwrap();
    stage.nobody_led_beside_another();

    // The other one goes, and leaves the cluster without a leader rather than with one that cannot serve: one that is
    // well leads as soon as it is there.
    let mark = stage.curators[leader].mark();
    stage.curators[follower].terminate().unwrap();
    stage.curators[follower].wait_exit(SOON).unwrap();
    assert!(stage.candidates().is_empty(), "nobody stands for election");
    let again = stage.curators[follower].mark();
    stage.curators[follower].restart().unwrap();
    stage.curators[follower]
        .wait_for_role(again, SOON, "leading again", Role::is_leader)
        .unwrap();
    let roles = stage.curators[leader].roles_since(mark);
    assert!(!roles.iter().any(|change| change.role.is_leader()), "{roles:?}");
}
