//! The election on the model of etcd, in simulated time, with faults from a seed.
//!
//! Three electors with clocks whose rates differ by nearly a tenth, with failover limits that differ (one may have
//! none, as a candidate of Go), and a schedule of faults: partitions (also one-way), lost and late replies, closed
//! watches, compaction, leases revoked and challenge keys deleted behind everybody's back, changes of the store's own
//! leader, processes that are stopped for longer than the TTL or killed and started again. All the while candidates
//! suspect the leader, rightly or not. At each simulated 10 ms: at most one valid term (S2), and the key of a valid
//! term is in the store; a write guarded by an ended term never lands (S1); an ended term is never valid again; a
//! leader is deposed only while another candidate is queued. After the faults have healed there is one leader and all
//! agree.
//!
//! Every fourth seed has no faults but outages of the store: those change no leader.
//!
//! `CURATOR_SIM_SEEDS` sets how many seeds are run, `CURATOR_SIM_SEED` runs one of them and prints its trace,
//! `CURATOR_SIM_BUG` runs them with one of the deliberate bugs of the challenge, and `CURATOR_SIM_BUGS` looks for each
//! of those in so many seeds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::{SharedClock, TokioClock};
use curator_election::failpoint::CHALLENGE_BUGS;
use curator_election::memory::{Faults, Link, MemoryCluster, PauseSwitch};
use curator_election::store::{Event, Keys, LeaseId, Op, Range, Revision, Store, Txn};
use curator_election::{
    ElectionStatus, Elector, ElectorConfig, ElectorHandle, PlainText, StoreElection, Term, Validity,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NODES: usize = 3;
const TTL: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(10);
const FAULTY: Duration = Duration::from_secs(40);
/// Once all is well: the longest lease that may still be in the way, its scan, and a round's longest pauses.
const HEALED: Duration = Duration::from_secs(15);

/// The longest outage of the store that must not change the leader: shorter than the lease, longer than each wait.
const MAX_OUTAGE: Duration = Duration::from_millis(1_300);
/// The number of outages of a seed without other faults.
const OUTAGES: u32 = 6;

type Status = ElectionStatus<PlainText>;

struct Node {
    gate: PauseSwitch,
    status: watch::Receiver<Status>,
    handle: ElectorHandle<PlainText>,
    running: tokio::task::JoinHandle<()>,
    cancel: CancellationToken,
}

struct World {
    cluster: MemoryCluster,
    clocks: Vec<SharedClock>,
    limits: Vec<Option<Duration>>,
    nodes: Vec<Option<Node>>,
    rng: StdRng,
    trace: String,
    begun: tokio::time::Instant,
    /// Terms seen: what an ended one tries must fail.
    terms: Vec<Term>,
    /// The terms that were seen to have ended.
    ended: Vec<Term>,
    /// The lock keys in the store, by create revision, and the revision up to which the store was followed.
    locks: BTreeMap<Revision, bytes::Bytes>,
    followed: Revision,
    deposed: u64,
    /// When the leader is cut off, and the links of the others are well again.
    cut_at: Option<(Duration, usize)>,
    /// When somebody deletes the lock keys of all candidates but the oldest.
    unqueue_at: Option<Duration>,
    /// The lock revision of the last accepted write.
    last_writer: Revision,
    writes: u64,
    /// The leases that the schedule revoked behind their owners' backs.
    revoked: Vec<LeaseId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // The margins cover rates that differ by a tenth each way.
        let clocks = (0..NODES)
            .map(|_| {
                let extreme = if rng.random_bool(0.5) { 99_000 } else { -99_000 };
                let drift = if rng.random_bool(0.5) {
                    extreme
                } else {
                    rng.random_range(-99_000..=99_000)
                };
                Arc::new(TokioClock::with_drift_ppm(drift)) as SharedClock
            })
            .collect();
        let limits = (0..NODES)
            .map(|_| [None, Some(500), Some(1_000), Some(1_000), Some(1_500)][rng.random_range(0..5)])
            .map(|limit| limit.map(Duration::from_millis))
            .collect();
        let cluster = MemoryCluster::new(seed);
        for node in 0..NODES {
            let _ = cluster.client(node);
        }
        let mut world = Self {
            cluster,
            clocks,
            limits,
            nodes: (0..NODES).map(|_| None).collect(),
            rng,
            trace: String::new(),
            begun: tokio::time::Instant::now(),
            terms: Vec::new(),
            ended: Vec::new(),
            locks: BTreeMap::new(),
            followed: Revision(1),
            deposed: 0,
            cut_at: None,
            unqueue_at: None,
            last_writer: Revision(0),
            writes: 0,
            revoked: Vec::new(),
        };
        for node in 0..NODES {
            world.start(node);
        }
        world
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let at = self.begun.elapsed().as_secs_f64();
        let _ = writeln!(self.trace, "{at:9.3} {what}");
    }

    fn start(&mut self, node: usize) {
        let seed = self.rng.random();
        let store: Arc<dyn Store> = Arc::new(self.cluster.client(node));
        let backend = StoreElection::new(store, "/leader", TTL / 3).with_seed(seed);
        let config = ElectorConfig {
            ttl: TTL,
            clock: self.clocks[node].clone(),
            failover_limit: self.limits[node],
            seed: Some(seed),
            ..ElectorConfig::default()
        };
        let value = PlainText(format!("node-{node}"));
        let elector = Elector::new(Arc::new(backend), &value, config).expect("a good configuration");
        let gate = PauseSwitch::default();
        let cancel = CancellationToken::new();
        let handle = elector.handle();
        let status = handle.status();
        let running = tokio::task::spawn_local(gate.run(elector.run(cancel.clone())));
        self.nodes[node] = Some(Node {
            gate,
            status,
            handle,
            running,
            cancel,
        });
        self.note(format_args!("node {node} starts"));
    }

    fn kill(&mut self, node: usize) {
        if let Some(killed) = self.nodes[node].take() {
            killed.running.abort();
            self.note(format_args!("node {node} is killed"));
        }
    }

    /// One fault, or the end of one.
    fn disturb(&mut self) {
        if self.rng.random_bool(0.3)
            && let Some(leader) = self.leader()
        {
            return self.disturb_leader(leader);
        }
        let node = self.rng.random_range(0..NODES);
        match self.rng.random_range(0..20) {
            0..=4 => {
                let link = [
                    Link::Cut,
                    Link::RequestsLost,
                    Link::RepliesLost,
                    Link::Refused,
                    Link::Cut,
                ][self.rng.random_range(0..5)];
                self.set_faults(
                    node,
                    Faults {
                        link,
                        ..Faults::default()
                    },
                );
            }
            5 | 6 => {
                let delay = TTL.mul_f64(self.rng.random_range(0.0..=0.9));
                self.set_faults(
                    node,
                    Faults {
                        delay,
                        ..Faults::default()
                    },
                );
            }
            7 => {
                let (lose_requests, lose_replies) =
                    (self.rng.random_range(0.0..=0.6), self.rng.random_range(0.0..=0.6));
                self.set_faults(
                    node,
                    Faults {
                        lose_requests,
                        lose_replies,
                        ..Faults::default()
                    },
                );
            }
            8 | 9 => self.set_faults(node, Faults::default()),
            10 => {
                self.cluster.close_watches(node);
                self.note(format_args!("watches of node {node} are closed"));
            }
            11 => {
                // Already compacted is as good.
                self.cluster.with_model(|model, _| {
                    let newest = model.revision();
                    let _ = model.compact(newest);
                });
                self.note(format_args!("the store is compacted"));
            }
            12 => {
                let leases: Vec<_> = self
                    .cluster
                    .with_model(|model, _| model.leases().map(|(id, _)| id).collect());
                if !leases.is_empty() {
                    let lease = leases[self.rng.random_range(0..leases.len())];
                    self.revoked.push(lease);
                    // It is there: nothing has happened since it was listed.
                    self.cluster.with_model(|model, _| {
                        let _ = model.revoke(lease);
                    });
                    self.note(format_args!("lease {lease} is revoked"));
                }
            }
            13 | 14 => {
                if let Some(running) = &self.nodes[node] {
                    let stop = !running.gate.is_stopped();
                    if stop {
                        running.gate.stop();
                    } else {
                        running.gate.go_on();
                    }
                    self.note(format_args!(
                        "node {node} {}",
                        if stop { "is stopped" } else { "goes on" }
                    ));
                }
            }
            15 | 16 => {
                // Somebody's hand.
                self.cluster.with_model(|model, _| {
                    let keys = Range::all(Keys::prefix("/leader-challenge/"));
                    let records = model.range(&keys).expect("reads").kvs;
                    if let Some(record) = records.into_iter().nth(node) {
                        model
                            .txn(&Txn::default().then(vec![Op::delete(record.key)]))
                            .expect("deletes");
                    }
                });
                self.note(format_args!("a challenge key is deleted"));
            }
            17 => {
                self.cluster
                    .with_model(|model, now| model.change_of_leader(now, Duration::from_secs(1)));
                self.note(format_args!("the store's own leader changes"));
            }
            _ => {
                if self.nodes[node].is_some() {
                    self.kill(node);
                } else {
                    self.start(node);
                }
            }
        }
    }

    /// The node with a valid term.
    fn leader(&self) -> Option<usize> {
        (0..NODES).find(|node| {
            let running = self.nodes[*node].as_ref();
            running.is_some_and(|running| running.status.borrow().valid_term().is_some())
        })
    }

    /// The leader becomes slow or silent, and is suspected at once.
    fn disturb_leader(&mut self, leader: usize) {
        let cut = Faults {
            link: Link::Cut,
            ..Faults::default()
        };
        let slow = Faults {
            delay: Duration::from_millis(self.rng.random_range(400..1_200)),
            ..Faults::default()
        };
        let late = Faults {
            late_replies: Duration::from_millis(self.rng.random_range(400..1_200)),
            ..Faults::default()
        };
        match self.rng.random_range(0..9) {
            0 | 1 => self.set_faults(leader, cut),
            6..=8 => {
                // Challenges are on their way for long, and the leader is lost shortly before they arrive.
                for other in (0..NODES).filter(|other| *other != leader) {
                    let delay = Duration::from_millis(self.rng.random_range(300..900));
                    self.set_faults(
                        other,
                        Faults {
                            delay,
                            ..Faults::default()
                        },
                    );
                }
                let later = Duration::from_millis(self.rng.random_range(100..900));
                self.cut_at = Some((self.begun.elapsed() + later, leader));
            }
            2 | 3 => self.set_faults(leader, slow),
            4 => self.set_faults(leader, late),
            _ => {
                if let Some(running) = &self.nodes[leader] {
                    running.gate.stop();
                    self.note(format_args!("node {leader} is stopped"));
                }
            }
        }
        for _ in 0..NODES {
            self.suspect();
        }
        if self.rng.random_bool(0.3) {
            let later = Duration::from_millis(self.rng.random_range(100..1_300));
            self.unqueue_at = Some(self.begun.elapsed() + later);
        }
    }

    /// Somebody deletes the lock keys of all candidates but the oldest.
    fn unqueue(&mut self) {
        self.unqueue_at = None;
        self.follow_store();
        let others: Vec<_> = self.locks.values().skip(1).cloned().map(Op::delete).collect();
        self.note(format_args!("{} lock keys behind the oldest are deleted", others.len()));
        self.cluster
            .with_model(|model, _| model.txn(&Txn::default().then(others)).expect("deletes"));
    }

    fn set_faults(&mut self, node: usize, faults: Faults) {
        self.note(format_args!("node {node}: {faults:?}"));
        self.cluster.set_faults(node, faults);
    }

    fn heal(&mut self) {
        self.note(format_args!("all is well again"));
        for node in 0..NODES {
            self.cluster.set_faults(node, Faults::default());
            match &self.nodes[node] {
                Some(running) => running.gate.go_on(),
                None => self.start(node),
            }
        }
    }

    /// A candidate suspects the leader that it follows, rightly or not.
    fn suspect(&mut self) {
        let node = self.rng.random_range(0..NODES);
        if let Some(running) = &self.nodes[node]
            && let Some(leader) = running.status.borrow().leader_info()
        {
            running.handle.suspect(leader.revision);
        }
    }

    /// Follows the lock keys in the store.
    fn follow_store(&mut self) {
        let (changes, newest) = self.cluster.with_model(|model, _| {
            let changes = model.changes(&Keys::prefix("/leader/"), self.followed.next());
            (changes, model.revision())
        });
        self.followed = newest;
        // After a compaction some changes are missing: then the present keys count.
        let Ok(changes) = changes else {
            let present = self
                .cluster
                .with_model(|model, _| model.range(&Range::all(Keys::prefix("/leader/"))));
            let kvs = present.expect("reads").kvs;
            self.locks = kvs.into_iter().map(|kv| (kv.create_revision, kv.key)).collect();
            return;
        };
        for event in changes.into_iter().flat_map(|batch| batch.events) {
            match event {
                Event::Put(kv) => {
                    self.locks.insert(kv.create_revision, kv.key);
                }
                Event::Delete { key, .. } => {
                    self.locks.retain(|_, lock| *lock != key);
                    self.check_deposed(&key);
                }
            }
        }
    }

    /// A leader's lock key is gone. If its lease is still there, another candidate has deposed it, and is queued.
    fn check_deposed(&mut self, key: &bytes::Bytes) {
        let leading = self
            .nodes
            .iter()
            .flatten()
            .find_map(|node| match &*node.status.borrow() {
                ElectionStatus::Leader(term) if term.lock_key() == key && term.validity() != Validity::Ended => {
                    Some(term.clone())
                }
                _ => None,
            });
        let Some(term) = leading else { return };
        let lease = term.lease();
        if !self
            .cluster
            .with_model(|model, _| model.leases().any(|(id, _)| id == lease))
        {
            return;
        }
        self.deposed += 1;
        self.note(format_args!("{term:?} is deposed"));
        assert!(
            !self.locks.is_empty(),
            "only a queued candidate deposes: {term:?} was, and nobody is left"
        );
    }

    /// What must hold at every instant.
    fn check(&mut self) {
        self.follow_store();
        for term in &self.terms {
            match term.validity() {
                Validity::Ended if !self.ended.contains(term) => self.ended.push(term.clone()),
                Validity::Valid => assert!(!self.ended.contains(term), "an ended term is valid again: {term:?}"),
                _ => {}
            }
        }
        let mut valid = Vec::new();
        for node in 0..NODES {
            let Some(running) = &self.nodes[node] else { continue };
            // What any consumer sees, also of a process that is stopped: it may wake up at any instruction.
            let status = running.status.borrow().clone();
            let ElectionStatus::Leader(term) = status else { continue };
            if !self.terms.contains(&term) {
                self.note(format_args!("node {node} leads: {term:?}"));
                self.terms.push(term.clone());
            }
            // A lease that somebody revokes while its owner is cut off ends a term that cannot know: there the guard
            // alone helps, which is checked below.
            if term.is_valid() && !self.revoked.contains(&term.lease()) {
                valid.push((node, term));
            }
        }
        assert!(valid.len() <= 1, "S2: two valid terms: {valid:?}");
        for (node, term) in &valid {
            let created = self
                .cluster
                .with_model(|model, _| model.get(term.lock_key()).map(|kv| kv.create_revision));
            assert!(
                created == Some(term.lock_revision()),
                "S2: node {node}'s term is valid and its key is not in the store: {term:?}"
            );
        }
        self.write_as_anybody();
    }

    /// Any holder of any term, ended or not, writes without asking whether it may. The guard alone decides.
    fn write_as_anybody(&mut self) {
        if self.terms.is_empty() {
            return;
        }
        let term = self.terms[self.rng.random_range(0..self.terms.len())].clone();
        let put = Op::put("/state", term.lock_revision().to_string());
        let accepted = self
            .cluster
            .with_model(|model, _| model.txn(&Txn::when(vec![term.guard()]).then(vec![put])));
        if accepted.expect("a good transaction").succeeded {
            self.writes += 1;
            assert!(
                term.lock_revision() >= self.last_writer,
                "S1: a write of the term at {} landed after one of {}",
                term.lock_revision(),
                self.last_writer
            );
            self.last_writer = term.lock_revision();
        }
    }

    fn leader_and_followers_agree(&self) -> bool {
        let statuses: Vec<Status> = self
            .nodes
            .iter()
            .flatten()
            .map(|node| node.status.borrow().clone())
            .collect();
        let leaders: Vec<_> = statuses.iter().filter_map(Status::valid_term).collect();
        let [leader] = leaders[..] else { return false };
        statuses
            .iter()
            .filter_map(Status::leader_info)
            .filter(|following| following.revision == leader.lock_revision())
            .count()
            == NODES - 1
    }

    /// Candidates suspect a healthy leader again and again, and the store has outages: that changes no leader.
    async fn run_with_outages(&mut self) {
        while !self.leader_and_followers_agree() {
            tokio::time::sleep(STEP).await;
            self.check();
            assert!(self.begun.elapsed() < HEALED, "L2: no leader within {HEALED:?}");
        }
        let leader = self.terms.last().cloned().expect("there is a leader");
        for _ in 0..OUTAGES {
            // A new process trusts the leader less than one that has seen a refutation.
            let follower = (0..NODES)
                .find(|node| self.leader() != Some(*node))
                .expect("three nodes");
            self.kill(follower);
            self.start(follower);
            let calm = Duration::from_millis(self.rng.random_range(2_000..4_000));
            self.pass(calm, true).await;
            let outage = MAX_OUTAGE.mul_f64(self.rng.random_range(0.3..=1.0));
            self.note(format_args!("the store is away for {outage:?}"));
            let link = Link::Cut;
            for node in 0..NODES {
                let cut = Faults {
                    link,
                    ..Faults::default()
                };
                self.cluster.set_faults(node, cut);
            }
            self.pass(outage, false).await;
            (0..NODES).for_each(|node| self.cluster.set_faults(node, Faults::default()));
            self.cluster
                .with_model(|model, now| model.change_of_leader(now, Duration::from_secs(1)));
            self.pass(Duration::from_secs(2), false).await;
            assert!(
                leader.is_valid(),
                "an outage of the store changes no leader: {leader:?}"
            );
        }
        assert_eq!(self.deposed, 0, "nobody deposes a leader that is alive");
    }

    /// Whether a candidate is challenged, by its key in the store.
    fn is_challenged(&self) -> bool {
        let records = self
            .cluster
            .with_model(|model, _| model.range(&Range::all(Keys::prefix("/leader-challenge/"))));
        let mut records = records.expect("reads").kvs.into_iter();
        records.any(|kv| String::from_utf8_lossy(&kv.value).contains("challenged"))
    }

    /// Lets the time pass, until somebody is challenged if that is wanted.
    async fn pass(&mut self, time: Duration, until_challenged: bool) {
        let began = self.begun.elapsed();
        let mut suspicion = began;
        while self.begun.elapsed() < began + time && !(until_challenged && self.is_challenged()) {
            if self.begun.elapsed() >= suspicion {
                self.suspect();
                suspicion = self.begun.elapsed() + Duration::from_millis(self.rng.random_range(20..400));
            }
            tokio::time::sleep(STEP).await;
            self.check();
        }
    }

    async fn run(&mut self, seed: u64) {
        if seed % 4 == 3 {
            self.run_with_outages().await;
        }
        let mut next = Duration::ZERO;
        let mut suspicion = Duration::ZERO;
        while seed % 4 != 3 && self.begun.elapsed() < FAULTY {
            if self.begun.elapsed() >= suspicion {
                self.suspect();
                suspicion = self.begun.elapsed() + Duration::from_millis(self.rng.random_range(20..800));
            }
            if self.begun.elapsed() >= next {
                self.disturb();
                next = self.begun.elapsed() + Duration::from_millis(self.rng.random_range(50..2_500));
            }
            if let Some((_, leader)) = self.cut_at.take_if(|(at, _)| self.begun.elapsed() >= *at) {
                for node in 0..NODES {
                    let link = if node == leader { Link::Cut } else { Link::Up };
                    self.set_faults(
                        node,
                        Faults {
                            link,
                            ..Faults::default()
                        },
                    );
                }
            }
            if self.unqueue_at.is_some_and(|at| self.begun.elapsed() >= at) {
                self.unqueue();
            }
            tokio::time::sleep(STEP).await;
            self.check();
        }
        self.heal();
        let healed = tokio::time::Instant::now();
        while !self.leader_and_followers_agree() {
            tokio::time::sleep(STEP).await;
            self.check();
            assert!(
                healed.elapsed() < HEALED,
                "L2, L6: no leader that all agree on within {HEALED:?} of healing"
            );
        }
        self.note(format_args!("all agree"));
        // A clean end: everybody resigns, and nothing of theirs stays in the store.
        for node in self.nodes.iter().flatten() {
            node.cancel.cancel();
        }
        for node in self.nodes.iter_mut().flatten() {
            tokio::time::timeout(Duration::from_secs(5), &mut node.running)
                .await
                .expect("L1: resigns in time")
                .expect("does not panic");
        }
        let left = self
            .cluster
            .with_model(|model, _| model.range(&Range::all(Keys::prefix("/leader"))));
        let left = left.expect("reads").kvs;
        assert!(left.is_empty(), "keys are left behind: {left:?}");
    }
}

/// What became of one seed.
struct Outcome {
    trace: String,
    terms: usize,
    writes: u64,
    deposed: u64,
    failure: Option<String>,
}

fn simulate(seed: u64, bug: Option<&'static str>) -> Outcome {
    #[cfg(debug_assertions)]
    let _bug = curator_failpoint::enable(bug);
    #[cfg(not(debug_assertions))]
    assert_eq!(bug, None, "without debug assertions there are no failpoints");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut world = World::new(seed);
        let failure = {
            let run = std::panic::AssertUnwindSafe(world.run(seed));
            futures::FutureExt::catch_unwind(run).await.err().map(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default()
            })
        };
        Outcome {
            trace: std::mem::take(&mut world.trace),
            terms: world.terms.len(),
            writes: world.writes,
            deposed: world.deposed,
            failure,
        }
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}"))
    })
}

/// Runs the seeds until one fails by this rule.
fn run(seeds: u64, bug: Option<&'static str>, rule: &str) -> Vec<(u64, Outcome)> {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stop = &stop;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    let mut outcomes = Vec::new();
                    for seed in (first..seeds).step_by(usize::try_from(threads).expect("few threads")) {
                        let outcome = simulate(seed, bug);
                        let failed = outcome.failure.as_ref().is_some_and(|failure| failure.contains(rule));
                        outcomes.push((seed, outcome));
                        stop.fetch_or(failed, std::sync::atomic::Ordering::Relaxed);
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                    outcomes
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a seed panics within its run"))
            .collect()
    })
}

#[test]
fn at_most_one_valid_term_and_progress_after_healing() {
    let bug = std::env::var("CURATOR_SIM_BUG").ok().map(|name| {
        *CHALLENGE_BUGS
            .iter()
            .find(|bug| **bug == name)
            .unwrap_or_else(|| panic!("CURATOR_SIM_BUG must be one of {CHALLENGE_BUGS:?}"))
    });
    if let Some(seed) = number("CURATOR_SIM_SEED") {
        let outcome = simulate(seed, bug);
        println!("{}", outcome.trace);
        assert_eq!(outcome.failure, None);
        return;
    }
    let seeds = number("CURATOR_SIM_SEEDS").unwrap_or(300);
    let outcomes = run(seeds, bug, "");
    if let Some((seed, outcome)) = outcomes.iter().find(|(_, outcome)| outcome.failure.is_some()) {
        panic!(
            "{}\nseed {seed} failed: {}\nto see it again: CURATOR_SIM_SEED={seed} cargo test \
             -p curator-election --test simulation -- --nocapture",
            outcome.trace,
            outcome.failure.as_deref().unwrap_or_default()
        );
    }
    let terms: usize = outcomes.iter().map(|(_, outcome)| outcome.terms).sum();
    let writes: u64 = outcomes.iter().map(|(_, outcome)| outcome.writes).sum();
    let deposed: u64 = outcomes.iter().map(|(_, outcome)| outcome.deposed).sum();
    println!(
        "{} seeds, {terms} terms, {deposed} deposed, {writes} fenced writes",
        outcomes.len()
    );
    // A simulation in which nothing happens would find nothing.
    assert!(terms as u64 > 2 * seeds, "{terms} terms in {seeds} seeds");
    assert!(writes > 100 * seeds, "{writes} writes in {seeds} seeds");
    assert!(deposed > seeds / 10, "{deposed} deposed in {seeds} seeds");
}

#[cfg(debug_assertions)]
/// The rule that finds each deliberate bug of the challenge, by a part of its message.
const FOUND_BY: &[(&str, &str)] = &[
    ("ConfirmsWithoutRecord", "S2"),
    ("ConfirmedFromReceipt", "S2"),
    ("WaitsFromSending", "S2"),
    ("WaitsFromAsking", "S2"),
    ("OwnLimit", "S2"),
    ("AbsentIsZero", "S2"),
    ("DeposesWithoutCompare", "S2"),
    ("DeposesUnqueued", "only a queued candidate deposes"),
    ("RefutesWithoutGuard", "S2"),
    ("LaterDeadline", "S2"),
    ("ChangesLimit", "S2"),
    ("NoChallengeMargin", "S2"),
    ("CountsOutages", "an outage of the store changes no leader"),
];

/// Each deliberate bug of the challenge is found, by its rule.
#[test]
#[cfg(debug_assertions)]
fn deliberate_bugs_of_the_challenge_are_found() {
    let names: Vec<&str> = FOUND_BY.iter().map(|(bug, _)| *bug).collect();
    assert_eq!(names, CHALLENGE_BUGS);
    let seeds = number("CURATOR_SIM_BUGS").unwrap_or(2_000);
    for (bug, rule) in FOUND_BY {
        let outcomes = run(seeds, Some(bug), rule);
        let found: Vec<_> = outcomes
            .iter()
            .filter_map(|(seed, outcome)| Some((seed, outcome.failure.as_ref()?)))
            .collect();
        let by_rule = found.iter().find(|(_, failure)| failure.contains(rule));
        let Some((seed, failure)) = by_rule else {
            panic!("{bug} was not found by {rule:?} in {seeds} seeds, but: {found:?}");
        };
        println!("{bug}: {failure} (seed {seed}, {} runs)", outcomes.len());
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 17] {
        assert_eq!(simulate(seed, None).trace, simulate(seed, None).trace);
    }
}
