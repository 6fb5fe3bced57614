//! Transfers on the model of etcd, with whole electors.

use std::sync::Arc;

use curator_proto::private::LeaderElectionValue;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backend::StoreElection;
use crate::clock::TokioClock;
use crate::elector::{Elector, ElectorConfig, ElectorHandle, StepDown};
use crate::memory::{Faults, MemoryClient, MemoryCluster};
use crate::status::ElectionStatus;

const TTL: Duration = Duration::from_secs(6);
const WITHIN: Duration = Duration::from_secs(3);

fn value(node: &str) -> LeaderElectionValue {
    LeaderElectionValue {
        node_id: node.into(),
        ttl: TTL.as_secs(),
        ..Default::default()
    }
}

/// One candidate and its elector.
struct Node {
    value: LeaderElectionValue,
    backend: Arc<StoreElection<MemoryClient>>,
    handle: ElectorHandle<LeaderElectionValue>,
    status: watch::Receiver<ElectionStatus<LeaderElectionValue>>,
    cancel: CancellationToken,
    running: JoinHandle<()>,
}

impl Node {
    async fn next_term(&mut self) -> Term {
        let leads = self
            .status
            .wait_for(|status| matches!(status, ElectionStatus::Leader(_)));
        match &*soon(leads).await.expect("it runs") {
            ElectionStatus::Leader(term) => term.clone(),
            _ => unreachable!("waited for"),
        }
    }

    async fn transfer_leadership(&self, term: &Term, to: &str) -> Result<(), TransferError> {
        soon(transfer_leadership(&*self.backend, term, &self.value, to, WITHIN)).await
    }
}

struct Stage {
    cluster: MemoryCluster,
    nodes: Vec<Node>,
}

/// Electors that queue up in this order, the first of which leads. Those named in `deaf` know nothing of transfers.
async fn stage(names: &[&str], deaf: &[&str]) -> (Stage, Term) {
    stage_by(1, names, deaf).await
}

async fn stage_by(seed: u64, names: &[&str], deaf: &[&str]) -> (Stage, Term) {
    let cluster = MemoryCluster::new(seed);
    let clock = Arc::new(TokioClock::new());
    let mut nodes = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let election = StoreElection::new(Arc::new(cluster.client(number)), "/leader", TTL / 3).with_seed(1);
        let backend = Arc::new(if deaf.contains(name) {
            election
        } else {
            election.with_transfer::<LeaderElectionValue>()
        });
        let value = value(name);
        let config = ElectorConfig {
            ttl: TTL,
            clock: clock.clone(),
            seed: Some(1),
            ..Default::default()
        };
        let elector = Elector::new(backend.clone(), &value, config).expect("a configuration");
        let (handle, cancel) = (elector.handle(), CancellationToken::new());
        let running = tokio::spawn(elector.run(cancel.clone()));
        let node = Node {
            value,
            status: handle.status(),
            handle,
            cancel,
            running,
            backend,
        };
        soon(async {
            while node.backend.candidates().await.is_ok_and(|all| all.len() <= number) {
                sleep(POLL_INTERVAL).await;
            }
        })
        .await;
        nodes.push(node);
    }
    let term = nodes[0].next_term().await;
    (Stage { cluster, nodes }, term)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.expect("in time")
}

impl Stage {
    async fn queue(&self) -> Vec<String> {
        let candidates = self.nodes[0].backend.candidates().await.expect("no faults");
        candidates.iter().map(name_of::<LeaderElectionValue>).collect()
    }

    /// Waits until the queue is as long as that.
    async fn queue_of(&self, length: usize) -> Vec<String> {
        soon(async {
            loop {
                let queue = self.queue().await;
                if queue.len() == length {
                    return queue;
                }
                sleep(POLL_INTERVAL).await;
            }
        })
        .await
    }

    async fn stop(self) {
        for node in self.nodes {
            node.cancel.cancel();
            soon(node.running).await.expect("it ends");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_in_the_queue_leads_next() {
    let (mut stage, term) = stage(&["a", "b", "c", "d"], &[]).await;
    assert_eq!(stage.queue().await, ["a", "b", "c", "d"]);
    stage.nodes[0]
        .transfer_leadership(&term, "d")
        .await
        .expect("all make way");
    assert_eq!(stage.queue_of(4).await[..2], ["a", "d"]);
    assert!(term.is_valid(), "it leads until it steps down");
    assert_eq!(soon(stage.nodes[0].handle.step_down()).await, Ok(StepDown::Done));
    let next = stage.nodes[3].next_term().await;
    assert!(next.lock_revision() > term.lock_revision());
    // What the one before had said has gone with it: the rest keep their places.
    assert_eq!(stage.queue_of(4).await[0], "d");
    let queue = stage.queue().await;
    sleep(TTL * 2).await;
    assert_eq!(stage.queue().await, queue);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_if_it_is_next_already() {
    let (stage, term) = stage(&["a", "b", "c"], &[]).await;
    let before = stage.nodes[0].backend.candidates().await.expect("no faults");
    stage.nodes[0]
        .transfer_leadership(&term, "b")
        .await
        .expect("it is next");
    assert_eq!(stage.nodes[0].backend.candidates().await.expect("no faults"), before);
    stage.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_no_candidate_cannot_be_next() {
    let (stage, term) = stage(&["a", "b", "c"], &[]).await;
    let refused = stage.nodes[0]
        .transfer_leadership(&term, "x")
        .await
        .expect_err("there is none");
    assert_eq!(refused.to_string(), "x is not a candidate: candidates are b, c");
    let refused = stage.nodes[0]
        .transfer_leadership(&term, "a")
        .await
        .expect_err("it leads");
    assert_eq!(refused.to_string(), "a is already the leader");
    assert_eq!(stage.queue().await, ["a", "b", "c"]);
    stage.stop().await;
}

/// A Go candidate, or one of an older version: it keeps its place, so that the transfer is refused and nobody else led
/// instead.
#[tokio::test(start_paused = true)]
async fn a_candidate_that_knows_nothing_of_it_keeps_its_place() {
    let (stage, term) = stage(&["a", "b", "c"], &["b"]).await;
    let refused = stage.nodes[0]
        .transfer_leadership(&term, "c")
        .await
        .expect_err("b does not move");
    assert!(
        matches!(&refused, TransferError::InTheWay { before, .. } if before == &["b"]),
        "{refused}"
    );
    assert_eq!(stage.queue().await, ["a", "b", "c"]);
    assert!(term.is_valid());
    let said = stage.nodes[0].backend.candidates().await.expect("no faults");
    assert_eq!(said[0].value, value("a").encode(), "the wish was taken back");
    stage.stop().await;
}

/// The target dies before the others have let it pass: they keep what order they have, and nobody spins.
#[tokio::test(start_paused = true)]
async fn a_target_that_dies_midway_is_not_waited_for() {
    let (mut stage, term) = stage(&["a", "b", "c", "d"], &["c"]).await;
    let dying = async {
        // b has given way, c stands still.
        while stage.queue().await != ["a", "c", "d", "b"] {
            sleep(POLL_INTERVAL).await;
        }
        stage.nodes[3].running.abort();
        let key = stage.nodes[0].backend.candidates().await.expect("no faults")[2]
            .key
            .clone();
        let lease = stage
            .cluster
            .with_model(|model, _| model.get(&key).and_then(|kv| kv.lease));
        let lease = lease.expect("attached");
        stage
            .cluster
            .with_model(|model, _| model.revoke(lease))
            .expect("it is there");
    };
    let (refused, ()) = tokio::join!(stage.nodes[0].transfer_leadership(&term, "d"), dying);
    assert!(matches!(refused, Err(TransferError::Left { .. })), "{refused:?}");
    assert!(term.is_valid(), "the leader has not handed over to another");
    assert_eq!(stage.queue().await, ["a", "c", "b"]);
    let revision = stage.cluster.with_model(|model, _| model.revision());
    sleep(TTL).await;
    assert_eq!(
        stage.cluster.with_model(|model, _| model.revision()),
        revision,
        "nobody changes places any more"
    );
    assert_eq!(soon(stage.nodes[0].handle.step_down()).await, Ok(StepDown::Done));
    stage.nodes[2].next_term().await;
    stage.stop_living(&[3]).await;
}

impl Stage {
    async fn stop_living(self, dead: &[usize]) {
        for (number, node) in self.nodes.into_iter().enumerate() {
            node.cancel.cancel();
            let ended = soon(node.running).await;
            assert_eq!(ended.is_err(), dead.contains(&number));
        }
    }
}

/// A leader that has lost its place without knowing it cannot tell anybody anything.
#[tokio::test(start_paused = true)]
async fn a_term_that_is_over_transfers_nothing() {
    let (mut stage, term) = stage(&["a", "b", "c"], &[]).await;
    assert_eq!(soon(stage.nodes[0].handle.step_down()).await, Ok(StepDown::Done));
    stage.nodes[1].next_term().await;
    let queue = stage.queue_of(3).await;
    let refused = stage.nodes[0].transfer_leadership(&term, "c").await;
    assert!(matches!(refused, Err(TransferError::TermEnded)), "{refused:?}");
    // And by the store itself, if it were only found out there.
    let said = stage.nodes[0].backend.proclaim(
        term.lock_key().clone(),
        term.lock_revision(),
        term.lease(),
        value("a").encode().into(),
    );
    assert!(!matches!(said.await, Ok(true)));
    assert_eq!(stage.queue().await, queue);
    stage.stop().await;
}

/// Answers are lost, among them some to leaving the queue and to joining it again: the candidate finds out what has
/// happened.
#[tokio::test(start_paused = true)]
async fn lost_answers_while_giving_way_lose_nobody() {
    for seed in 0..30 {
        let (mut stage, term) = stage_by(seed, &["a", "b", "c"], &[]).await;
        let faults = Faults {
            lose_replies: 0.4,
            ..Faults::default()
        };
        stage.cluster.set_faults(1, faults);
        let a = &stage.nodes[0];
        let next = transfer_leadership(&*a.backend, &term, &a.value, "c", Duration::from_secs(40));
        soon(next).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        stage.cluster.set_faults(1, Faults::default());
        assert_eq!(stage.queue_of(3).await, ["a", "c", "b"], "seed {seed}");
        assert_eq!(soon(stage.nodes[0].handle.step_down()).await, Ok(StepDown::Done));
        stage.nodes[2].next_term().await;
        stage.stop().await;
    }
}
