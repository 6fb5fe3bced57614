//! The election on the model of etcd, in simulated time, with faults from a seed.
//!
//! Three electors with clocks that drift, and a schedule of faults: partitions (also one-way), lost and late replies,
//! closed watches, compaction, leases revoked behind everybody's back, processes that are stopped for longer than the
//! TTL or killed and started again. At each simulated 10 ms: at most one valid term (S2), and the key of a valid term
//! is in the store; a write guarded by an ended term never lands (S1). After the faults have healed there is one leader
//! and all agree.
//!
//! `CURATOR_SIM_SEEDS` sets how many seeds are run, `CURATOR_SIM_SEED` runs one of them and prints its trace.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::{SharedClock, TokioClock};
use curator_election::memory::{Faults, Link, MemoryCluster, PauseSwitch};
use curator_election::store::{Keys, LeaseId, Op, Range, Revision, Store, Txn};
use curator_election::{ElectionStatus, Elector, ElectorConfig, PlainText, StoreElection, Term};
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

type Status = ElectionStatus<PlainText>;

struct Node {
    gate: PauseSwitch,
    status: watch::Receiver<Status>,
    running: tokio::task::JoinHandle<()>,
    cancel: CancellationToken,
}

struct World {
    cluster: MemoryCluster,
    clocks: Vec<SharedClock>,
    nodes: Vec<Option<Node>>,
    rng: StdRng,
    trace: String,
    begun: tokio::time::Instant,
    /// Terms seen, with their node: what an ended one tries must fail.
    terms: Vec<Term>,
    /// The lock revision of the last accepted write.
    last_writer: Revision,
    writes: u64,
    /// The leases that the schedule revoked behind their owners' backs.
    revoked: Vec<LeaseId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // The margin is a tenth: clocks may differ by far more than real ones and still be within it.
        let clocks = (0..NODES)
            .map(|_| Arc::new(TokioClock::with_drift_ppm(rng.random_range(-20_000..=20_000))) as SharedClock)
            .collect();
        let cluster = MemoryCluster::new(seed);
        for node in 0..NODES {
            let _ = cluster.client(node);
        }
        let mut world = Self {
            cluster,
            clocks,
            nodes: (0..NODES).map(|_| None).collect(),
            rng,
            trace: String::new(),
            begun: tokio::time::Instant::now(),
            terms: Vec::new(),
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
            seed: Some(seed),
            ..ElectorConfig::default()
        };
        let value = PlainText(format!("node-{node}"));
        let elector = Elector::new(Arc::new(backend), &value, config).expect("a good configuration");
        let gate = PauseSwitch::default();
        let cancel = CancellationToken::new();
        let status = elector.handle().status();
        let running = tokio::task::spawn_local(gate.run(elector.run(cancel.clone())));
        self.nodes[node] = Some(Node {
            gate,
            status,
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
        let node = self.rng.random_range(0..NODES);
        match self.rng.random_range(0..16) {
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
            _ => {
                if self.nodes[node].is_some() {
                    self.kill(node);
                } else {
                    self.start(node);
                }
            }
        }
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

    /// What must hold at every instant.
    fn check(&mut self) {
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

    async fn run(&mut self) {
        let mut next = Duration::ZERO;
        while self.begun.elapsed() < FAULTY {
            if self.begun.elapsed() >= next {
                self.disturb();
                next = self.begun.elapsed() + Duration::from_millis(self.rng.random_range(50..2_500));
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
            .with_model(|model, _| model.range(&Range::all(Keys::prefix("/leader/"))));
        let left = left.expect("reads").kvs;
        assert!(left.is_empty(), "keys are left behind: {left:?}");
    }
}

/// What became of one seed.
struct Outcome {
    trace: String,
    terms: usize,
    writes: u64,
    failure: Option<String>,
}

fn simulate(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut world = World::new(seed);
        let failure = {
            let run = std::panic::AssertUnwindSafe(world.run());
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

#[test]
fn at_most_one_valid_term_and_progress_after_healing() {
    if let Some(seed) = number("CURATOR_SIM_SEED") {
        let outcome = simulate(seed);
        println!("{}", outcome.trace);
        assert_eq!(outcome.failure, None);
        return;
    }
    let seeds = number("CURATOR_SIM_SEEDS").unwrap_or(1_000);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    let mut outcomes = Vec::new();
                    for seed in (first..seeds).step_by(usize::try_from(threads).unwrap()) {
                        let outcome = simulate(seed);
                        let failed = outcome.failure.is_some();
                        outcomes.push((seed, outcome));
                        if failed {
                            break;
                        }
                    }
                    outcomes
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
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
    println!("{} seeds, {terms} terms, {writes} fenced writes", outcomes.len());
    // A simulation in which nothing happens would find nothing.
    assert!(terms as u64 > 2 * seeds, "{terms} terms in {seeds} seeds");
    assert!(writes > 100 * seeds, "{writes} writes in {seeds} seeds");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 17] {
        assert_eq!(simulate(seed).trace, simulate(seed).trace);
    }
}
