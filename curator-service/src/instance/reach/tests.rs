//! A leader and followers on a simulated etcd. Reachability is given as a table, and time is an argument.

use std::collections::HashSet;

use async_trait::async_trait;
use curator_election::backend::Elected;
use curator_election::clock::TokioClock;
use curator_election::memory::MemoryCluster;
use curator_election::store::Revision;
use curator_election::{CampaignError, StoreElection, TermOwner};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::consensus::FixedConsensus;
use crate::instance::reach::*;

/// The nodes that this instance reaches.
struct Reached(HashSet<&'static str>);

#[async_trait]
impl Probe for Reached {
    async fn reaches(&self, node_id: &str, address: &str) -> bool {
        assert_eq!(address, format!("{node_id}:7835"));
        self.0.contains(node_id)
    }
}

/// The first node leads, and the others are queued in order.
struct Stage {
    /// Leases expire while the cluster exists.
    _cluster: MemoryCluster,
    store: Arc<dyn Store>,
    nodes: Vec<Reach>,
    term: Term,
    _term_owner: TermOwner,
    campaigns: Vec<JoinHandle<Result<Elected, CampaignError>>>,
}

impl Stage {
    /// Each node with the nodes that it reaches.
    async fn new(nodes: &[(&'static str, &[&'static str])]) -> Self {
        let cluster = MemoryCluster::new(1);
        let store: Arc<dyn Store> = Arc::new(cluster.client(0));
        let (mut reaches, mut campaigns, mut first) = (Vec::new(), Vec::new(), None);
        for (name, reached) in nodes {
            let config = Config::new(*name, Arc::new(FixedConsensus::running(store.clone())));
            let candidate = CandidateConfig::new(
                config.node_id.clone(),
                config.election_prefix.clone(),
                config.effective_ttl(),
                config.effective_failover_limit(),
                format!("{name}:7835"),
            );
            let election: Arc<StoreElection<dyn Store>> = Arc::new(candidate.election(store.clone()));
            let lease = election.grant(Duration::from_secs(3_600)).await.unwrap().id;
            let (value, campaigning) = (candidate.value.encode().into(), election.clone());
            campaigns.push(tokio::spawn(
                async move { campaigning.campaign(lease, value, None).await },
            ));
            while election.candidates().await.unwrap().len() < campaigns.len() {
                sleep(Duration::from_millis(10)).await;
            }
            let candidates = election.candidates().await.unwrap();
            first.get_or_insert((lease, candidates[0].create_revision));
            reaches.push(Reach::new(candidate, Arc::new(Reached(reached.iter().copied().collect()))).0);
        }
        let (lease, revision) = first.unwrap();
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(600);
        let (term_owner, term) = Term::for_test_with_lease(format!("/leader/{lease}"), revision, lease, until, clock);
        Self {
            _cluster: cluster,
            store,
            nodes: reaches,
            term,
            _term_owner: term_owner,
            campaigns,
        }
    }

    /// A follower's check after the leader was unreachable for this long.
    async fn follows(&mut self, at: usize, silent: Option<Duration>) {
        let following = LeaderInfo {
            leader: self.nodes[0].candidate.value.clone(),
            key: self.term.lock_key().clone(),
            revision: self.term.lock_revision(),
        };
        let store = self.store.clone();
        self.nodes[at]
            .check_as_follower(&store, &following, silent)
            .await
            .unwrap();
    }

    /// The leader's check after this many seconds: the successor.
    async fn leads(&mut self, seconds: u64) -> Option<String> {
        let (store, term) = (self.store.clone(), self.term.clone());
        self.nodes[0].successor(&store, &term, at(seconds)).await.unwrap()
    }

    fn told(&self) -> Vec<String> {
        self.nodes[0].unreached_by.borrow().clone()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.campaigns.iter().for_each(JoinHandle::abort);
    }
}

fn at(seconds: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(seconds))
}

const LONG: Option<Duration> = Some(REPORT_AFTER);

#[tokio::test(start_paused = true)]
async fn a_leader_whom_nobody_reaches_makes_way_to_one_that_is_reached() {
    let mut stage = Stage::new(&[("a", &[]), ("b", &["c"]), ("c", &[])]).await;
    stage.follows(1, LONG).await;
    assert_eq!(stage.leads(0).await, None);
    assert_eq!(stage.told(), ["b"]);
    assert_eq!(stage.leads(100).await, None, "c may reach it");
    stage.follows(2, LONG).await;
    assert_eq!(stage.leads(100).await, None, "it has only just been said");
    assert_eq!(stage.told(), ["b", "c"]);
    assert_eq!(
        stage.leads(100 + STEP_DOWN_AFTER.as_secs()).await.as_deref(),
        Some("c"),
        "b is reached by nobody"
    );
}

/// A short outage: the follower withdraws its report, and all starts again.
#[tokio::test(start_paused = true)]
async fn whoever_reaches_it_again_takes_it_back() {
    let mut stage = Stage::new(&[("a", &["b"]), ("b", &[])]).await;
    stage.follows(1, Some(REPORT_AFTER / 2)).await;
    assert_eq!(stage.leads(0).await, None);
    assert!(stage.told().is_empty(), "it may be back in a moment");
    stage.follows(1, LONG).await;
    assert_eq!(stage.leads(1).await, None);
    assert_eq!(stage.told(), ["b"]);
    stage.follows(1, None).await;
    assert_eq!(stage.leads(2).await, None);
    assert!(stage.told().is_empty());
    stage.follows(1, LONG).await;
    assert_eq!(stage.leads(50).await, None, "from now on");
    assert_eq!(
        stage.leads(60).await.as_deref(),
        Some("b"),
        "the leader reaches it itself"
    );
}

/// Stepping down would gain nothing: the successor would not be reachable either.
#[tokio::test(start_paused = true)]
async fn a_leader_stays_where_nobody_reaches_anybody() {
    let mut stage = Stage::new(&[("a", &[]), ("b", &[]), ("c", &[])]).await;
    for follower in [1, 2] {
        stage.follows(follower, LONG).await;
    }
    for seconds in [0, 10, 100] {
        assert_eq!(stage.leads(seconds).await, None);
    }
    assert_eq!(stage.told(), ["b", "c"]);
}

/// A report about another term, or of a candidate that is gone, does not count.
#[tokio::test(start_paused = true)]
async fn complaints_are_of_a_term_and_go_with_the_candidacy() {
    let mut stage = Stage::new(&[("a", &["b", "c"]), ("b", &[]), ("c", &[])]).await;
    let following = LeaderInfo {
        leader: stage.nodes[0].candidate.value.clone(),
        key: stage.term.lock_key().clone(),
        revision: Revision(stage.term.lock_revision().0 - 1),
    };
    let store = stage.store.clone();
    stage.nodes[1]
        .check_as_follower(&store, &following, LONG)
        .await
        .unwrap();
    assert_eq!(stage.leads(0).await, None);
    assert!(stage.told().is_empty());
    for follower in [1, 2] {
        stage.follows(follower, LONG).await;
    }
    assert_eq!(stage.leads(0).await, None);
    assert_eq!(stage.told(), ["b", "c"]);
    let queue = stage.nodes[0].election(&store).candidates().await.unwrap();
    store.revoke(queue[2].lease.unwrap()).await.unwrap();
    assert_eq!(stage.leads(1).await, None);
    assert_eq!(stage.told(), ["b"]);
}

/// At most one leader steps down per minute, so two unreachable leaders do not alternate.
#[tokio::test(start_paused = true)]
async fn in_a_minute_one_leader_makes_way() {
    let mut stage = Stage::new(&[("a", &["b"]), ("b", &[])]).await;
    stage.follows(1, LONG).await;
    assert_eq!(stage.leads(0).await, None);
    assert_eq!(stage.leads(10).await.as_deref(), Some("b"));
    let (store, term) = (stage.store.clone(), stage.term.clone());
    assert!(stage.nodes[0].claim(&store, &term, at(10)).await.unwrap());
    assert_eq!(stage.leads(11).await, None, "it has just done so");
    assert!(
        !stage.nodes[0].claim(&store, &term, at(11)).await.unwrap(),
        "nor by another look"
    );
    // On the simulated clock, the lease expires.
    tokio::time::advance(STEP_DOWN_INTERVAL * 2).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.leads(200).await.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_term_that_has_ended_takes_no_turn() {
    let mut stage = Stage::new(&[("a", &["b"]), ("b", &[])]).await;
    let (store, term) = (stage.store.clone(), stage.term.clone());
    store.revoke(term.lease()).await.unwrap();
    assert!(!stage.nodes[0].claim(&store, &term, at(0)).await.unwrap());
}
