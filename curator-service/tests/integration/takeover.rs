//! Leaders that end, and who comes after them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use curator_election::LeaderValue;
use curator_harness::{CuratorOptions, Deadline, EtcdOptions, Mark, Role};
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::{GetCurrentLeaderRequest, GetCurrentLeaderResponse};
use curator_proto::private::LeaderElectionValue;
use tokio::runtime::Builder;
use tonic::transport::Channel;

use crate::test_cluster::{Reach, SCAN, SOON, TTL, TestCluster, measured};

#[test]
fn one_leads_and_the_others_follow_it() {
    let (stage, leader) = TestCluster::elected("elect", Reach::Own, TTL, EtcdOptions::default());
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
    let (mut stage, leader) = TestCluster::elected("sigkill", Reach::Own, TTL, EtcdOptions::default());
    let etcd_leader = stage.etcd.leader(SOON).unwrap();
    let marks = stage.marks();
    stage.silence(leader);
    let killed = Instant::now();
    stage.curators[leader].kill().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    let took = next.at - killed;
    measured("failover after SIGKILL", took, TTL);
    if stage.etcd.leader(SOON).unwrap() == etcd_leader {
        assert!(took <= TTL + SCAN, "{took:?}");
    } else {
        println!("UNBOUNDED: etcd changed its own leader meanwhile, which gives each lease its full TTL once more");
    }
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn a_terminated_leader_hands_over_without_waiting_for_its_lease() {
    let (stage, leader) = TestCluster::elected("sigterm", Reach::Own, TTL, EtcdOptions::default());
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
    let (mut stage, leader) = TestCluster::elected("restart", Reach::Own, ttl, EtcdOptions::default());
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

/// Asks an instance who leads, again and again; an answer is the leader's id and the instance's own. Ends at the first
/// answer after `enough`.
async fn ask_who_leads(
    mut client: CuratorLocalClient<Channel>,
    enough: Arc<AtomicBool>,
) -> Vec<Result<GetCurrentLeaderResponse, tonic::Status>> {
    let mut answers = Vec::new();
    loop {
        let last = enough.load(Ordering::SeqCst);
        answers.push(who_leads(&mut client).await);
        if last {
            return answers;
        }
    }
}

async fn who_leads(client: &mut CuratorLocalClient<Channel>) -> Result<GetCurrentLeaderResponse, tonic::Status> {
    let asked = async {
        let mut answers = client
            .get_current_leader(GetCurrentLeaderRequest {})
            .await?
            .into_inner();
        answers
            .message()
            .await?
            .ok_or_else(|| tonic::Status::internal("no answer"))
    };
    tokio::time::timeout(SOON, asked).await.expect("answers in time")
}

#[test]
fn a_leader_that_wakes_up_after_its_lease_never_claims_its_old_term() {
    let (mut stage, leader) = TestCluster::elected("sigstop", Reach::Own, TTL, EtcdOptions::default());
    let old = stage.lock_revision(leader);
    // Some ask it who leads before it stops, all the while, and when it wakes up: its log alone would not show a claim.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let address = format!("http://{}", stage.curators[leader].address());
    let mut client = runtime.block_on(CuratorLocalClient::connect(address)).unwrap();
    let answer = runtime.block_on(who_leads(&mut client)).unwrap();
    assert_eq!(answer.leader_node_id, stage.curators[leader].node_id());
    let marks = stage.marks();
    stage.silence(leader);
    let stopped = Instant::now();
    stage.curators[leader].pause().unwrap();
    let (_, next) = stage.next_leader(&stage.others(leader), &marks, SOON);
    measured("failover after SIGSTOP", next.at - stopped, TTL);
    let enough = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..8)
        .map(|_| runtime.spawn(ask_who_leads(client.clone(), enough.clone())))
        .collect();
    let mark = stage.curators[leader].mark();
    let woken = Instant::now();
    stage.curators[leader].resume().unwrap();
    let down = stage.steps_down(leader, mark, SOON);
    measured("step down after SIGCONT", down.at - woken, TTL);
    assert!(down.at - woken < TTL / 4, "{:?}", down.at - woken);
    stage.agreed(SOON);
    enough.store(true, Ordering::SeqCst);
    for asking in asking {
        let answers = runtime.block_on(asking).unwrap();
        for answer in answers.iter().flatten() {
            assert_ne!(answer.leader_node_id, answer.this_node_id, "it claims to lead");
        }
        assert!(answers.last().is_some_and(Result::is_ok), "{answers:?}");
    }
    let again = stage.curators[leader].roles_since(mark);
    assert!(
        again.iter().all(|change| change.role.lock_revision() != Some(old)),
        "{again:?}"
    );
    stage.nobody_led_beside_another();
}

#[test]
fn two_namespaces_elect_apart() {
    const ANOTHER: &str = "namespaced:another";
    let mut stage = TestCluster::empty("namespaces", EtcdOptions::default());
    let elsewhere = |mut options: CuratorOptions| {
        options.etcd_namespace = ANOTHER.to_owned();
        options
    };
    let leads = |stage: &TestCluster, curator: usize| {
        stage.curators[curator]
            .wait_for_role(Mark::START, SOON, "leading", Role::is_leader)
            .unwrap();
    };
    let follows = |stage: &TestCluster, curator: usize, leader: usize, mark: Mark| {
        let id = stage.curators[leader].node_id();
        stage.curators[curator]
            .wait_for_role(mark, SOON, "following", |role| role.follows() == Some(id))
            .unwrap();
    };
    // Two in each, and the first of each leads.
    let here = stage.start(0, Reach::Own, |options| options);
    let there = stage.start(1, Reach::Own, elsewhere);
    leads(&stage, here);
    leads(&stage, there);
    let here_next = stage.start(2, Reach::Own, |options| options);
    let there_next = stage.start(0, Reach::Own, elsewhere);
    follows(&stage, here_next, here, Mark::START);
    follows(&stage, there_next, there, Mark::START);
    let curators_in = |namespace: &str| -> Vec<usize> {
        let candidates = stage.candidates_in(namespace);
        candidates.iter().map(|kv| stage.curator_of(kv)).collect()
    };
    assert_eq!(curators_in("namespaced:curator"), [here, here_next]);
    assert_eq!(curators_in(ANOTHER), [there, there_next]);
    // A change of leader in one is none in the other.
    let marks = stage.marks();
    stage.curators[here].terminate().unwrap();
    let (next, _) = stage.next_leader(&[here_next], &marks, SOON);
    assert_eq!(next, here_next);
    let deadline = Deadline::after(TTL);
    for curator in [there, there_next] {
        let changed = stage.curators[curator].wait_for_role(marks[curator], deadline.remaining(), "a change", |_| true);
        assert!(
            changed.is_err() && stage.curators[curator].process().is_running(),
            "{changed:?}"
        );
    }
    assert!(deadline.passed());
    assert_eq!(curators_in(ANOTHER), [there, there_next]);
    stage.none_led_beside_another(&[here, here_next]);
    stage.none_led_beside_another(&[there, there_next]);
}

/// A leader that is dead is named until its lease runs out: for so long it is said that nothing is heard of it, and the
/// time without a leader counts from then.
#[test]
fn a_leader_that_is_silent_is_said_to_be_before_its_lease_runs_out() {
    const LONG: Duration = Duration::from_secs(10);
    let mut stage = TestCluster::empty("silent", EtcdOptions::default());
    for member in 0..3 {
        // With a limit it would be deposed long before.
        stage.start(member, Reach::Own, |options| CuratorOptions {
            extra_args: vec!["--failover-limit=off".into()],
            ..options.leader_ttl(LONG)
        });
    }
    let leader = stage.agreed(SOON);
    let others = stage.others(leader);
    let follower = others[0];
    let value = |stage: &TestCluster, name: &str| {
        let (code, text) = stage.curators[follower].observed("/metrics", SOON).unwrap();
        assert_eq!(code, 200);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|line| line.parse::<f64>().ok()).unwrap_or_default()
    };
    assert!(value(&stage, "curator_leader_silent_seconds") < 1.0);
    let before = value(&stage, "curator_leaderless_seconds_sum");
    let marks = stage.marks();
    stage.silence(leader);
    stage.curators[leader].kill().unwrap();
    curator_harness::wait_until("the silence to be told", LONG / 2, || {
        (value(&stage, "curator_leader_silent_seconds") > 1.0).then_some(())
    })
    .unwrap();
    let role = stage.curators[follower].role();
    let named = role.as_ref().and_then(Role::follows);
    assert_eq!(named, Some(stage.curators[leader].node_id()), "it is named still");
    stage.next_leader(&others, &marks, SOON);
    let counted = curator_harness::wait_until("the time to be counted", SOON, || {
        let counted = value(&stage, "curator_leaderless_seconds_sum") - before;
        (counted > 0.0).then_some(counted)
    })
    .unwrap();
    assert!(counted > LONG.as_secs_f64() / 2.0, "{counted}");
}
