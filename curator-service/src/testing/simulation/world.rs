//! A run from start to end.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use curator_election::ElectionStatus;
use curator_election::clock::{SharedClock, TokioClock};
use curator_election::memory::model::Snapshot;
use curator_election::memory::{Faults, MemoryCluster};
use curator_election::store::{Keys, Op, Revision, Txn};
use curator_listener::testing::sim_network::Network;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::state::keys::CLUSTER_CONFIGURATION;
use crate::status::LeaderStatus;
use crate::testing::simulation::bug::Bug;
use crate::testing::simulation::client::{Access, Client, Nodes, Record};
use crate::testing::simulation::history;
use crate::testing::simulation::history::{Broken, Restore};
use crate::testing::simulation::node::{Node, Start, name};
use crate::testing::simulation::scenario::{Fault, Planned, Scenario, TTL};
use crate::testing::simulation::terms::{Kept, Look, Terms};

const STEP: Duration = Duration::from_millis(10);
/// The time to converge after the last fault: the longest remaining lease, its expiry scan, and a round's longest
/// backoffs.
const HEALED: Duration = Duration::from_secs(15);
/// The time to converge without obstacles.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub rule: &'static str,
    /// The observation.
    pub what: String,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The first violated invariant.
    pub violation: Option<Violation>,
    /// The trace, in order; with each call if requested.
    pub trace: String,
    /// The number of terms.
    pub terms: usize,
    /// The number of answered calls.
    pub answered: u64,
    /// The number of calls answered by another instance than the one that was called.
    pub forwarded: u64,
}

/// Runs a scenario, with a deliberate bug if one is given; `all` traces each call.
#[must_use]
pub fn simulate(scenario: &Scenario, bug: Option<Bug>, all: bool) -> Outcome {
    let _bug = Bug::enable(bug);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&scenario.seed.to_le_bytes()));
    let runtime = builder.build().unwrap_or_else(|error| panic!("no runtime: {error}"));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut world = World::new(scenario, all, bug.is_none());
        let ran = std::panic::AssertUnwindSafe(world.run()).catch_unwind().await;
        let broken = match ran {
            Ok(done) => done.err(),
            Err(panic) => Some(("nothing panics", told_by(&*panic))),
        };
        let told = world.record.borrow_mut().told.take();
        world.note_calls(told.unwrap_or_default());
        if let Some((rule, what)) = &broken {
            world.note(format_args!("broken: {rule}: {what}"));
        }
        Outcome {
            violation: broken.map(|(rule, what)| Violation { rule, what }),
            trace: std::mem::take(&mut world.trace),
            terms: world.terms.count(),
            answered: world.record.borrow().answered,
            forwarded: world.record.borrow().forwarded,
        }
    })
}

fn node_address(node: usize) -> SocketAddr {
    address(0, node)
}

fn client_address(client: usize) -> SocketAddr {
    address(1, client)
}

fn address(network: u8, number: usize) -> SocketAddr {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    (Ipv4Addr::new(10, 0, network, number), 7835).into()
}

fn told_by(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

struct World<'a> {
    scenario: &'a Scenario,
    /// Whether instances have failover limits. The deliberate bugs are those of leases and of the service.
    limited: bool,
    cluster: MemoryCluster,
    network: Network,
    clocks: Vec<SharedClock>,
    nodes: Nodes,
    record: Rc<RefCell<Record>>,
    rng: StdRng,
    begun: Instant,
    terms: Terms,
    /// The revision up to which the store's history was read.
    followed: Revision,
    /// The fault of each node's connection to the store.
    ways: Vec<Option<usize>>,
    /// The current faults between instances.
    between: Vec<Planned>,
    /// The snapshot of the store, to be restored.
    snapshot: Option<(Snapshot, Kept)>,
    restored: Option<Restore>,
    trace: String,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, all: bool, limited: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(!scenario.seed);
        let clocks = (0..scenario.nodes)
            // The margins cover rates that differ by a tenth.
            .map(|_| Arc::new(TokioClock::with_drift_ppm(rng.random_range(-90_000..=90_000))) as SharedClock)
            .collect();
        let cluster = MemoryCluster::new(scenario.seed);
        let followed = cluster.with_model(|model, _| {
            let put = Op::put(CLUSTER_CONFIGURATION, "some");
            // A put of a new key cannot fail.
            let _ = model.txn(&Txn::default().then(vec![put]));
            model.revision()
        });
        let record = Record::new(all);
        let mut world = Self {
            scenario,
            limited,
            cluster,
            network: Network::new(scenario.seed),
            clocks,
            nodes: Rc::new(RefCell::new((0..scenario.nodes).map(|_| None).collect())),
            record: Rc::new(RefCell::new(record)),
            rng,
            begun: Instant::now(),
            terms: Terms::new(),
            followed,
            ways: vec![None; scenario.nodes],
            between: Vec::new(),
            snapshot: None,
            restored: None,
            trace: String::new(),
        };
        for node in 0..scenario.nodes {
            world.start(node);
        }
        world
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let at = self.now().as_secs_f64();
        // Writing to a string cannot fail.
        let _ = writeln!(self.trace, "{at:9.3} {what}");
    }

    fn note_calls(&mut self, calls: Vec<String>) {
        for call in calls {
            self.note(format_args!("{call}"));
        }
    }

    fn start(&mut self, node: usize) {
        let started = Node::start(Start {
            number: node,
            store: self.cluster.client(node),
            clock: self.clocks[node].clone(),
            seed: self.rng.random(),
            limited: self.limited,
            now: self.now(),
            host: self.scenario.listeners.then(|| self.network.host(node_address(node))),
        });
        self.nodes.borrow_mut()[node] = Some(started);
        self.set_network();
        self.note(format_args!("node {node} starts"));
    }

    fn client(&self, number: usize) -> Client {
        let access = if self.scenario.listeners {
            Access::Listeners {
                own: self.network.host(client_address(number)),
                nodes: (0..self.scenario.nodes).map(node_address).collect(),
            }
        } else {
            Access::State
        };
        let seed = self.scenario.seed ^ ((number as u64 + 1) << 48);
        Client::new(
            Rc::clone(&self.nodes),
            Rc::clone(&self.record),
            access,
            self.begun,
            seed,
        )
    }

    async fn run(&mut self) -> Result<(), Broken> {
        let stop = CancellationToken::new();
        let clients: Vec<_> = (0..self.scenario.clients)
            .map(|number| {
                let client = self.client(number);
                spawn_local(client.run(stop.clone()))
            })
            .collect();
        let outcome = self.run_with(&clients).await;
        stop.cancel();
        for client in clients {
            if let Err(error) = client.await {
                outcome.clone()?;
                return Err(("nothing panics", error.to_string()));
            }
        }
        outcome?;
        self.end().await
    }

    async fn run_with(&mut self, clients: &[JoinHandle<()>]) -> Result<(), Broken> {
        let mut moments: Vec<(Duration, bool, &Planned)> = self
            .scenario
            .faults
            .iter()
            .flat_map(|planned| [(planned.at, true, planned), (planned.until, false, planned)])
            .collect();
        moments.sort_by_key(|(at, begins, planned)| (*at, *begins, planned.number));
        let mut moments = moments.into_iter().peekable();
        while self.now() < self.scenario.faulty {
            while let Some((_, begins, planned)) = moments.next_if(|(at, _, _)| *at <= self.now()) {
                if begins {
                    self.begin(planned)?;
                } else {
                    self.is_over(planned)?;
                }
            }
            self.step().await?;
            if clients.iter().any(JoinHandle::is_finished) {
                return Err(("nothing panics", "a client has ended".into()));
            }
        }
        self.heal();
        let healed = self.now();
        while !self.all_agree() {
            self.step().await?;
            if self.now() > healed + HEALED {
                return Err((
                    "there is progress after healing",
                    format!("no leader that all agree on within {HEALED:?}"),
                ));
            }
        }
        self.note(format_args!("all agree"));
        let mut client = self.client(self.scenario.clients);
        // A term may end once more if it could not be renewed for too long.
        let agreed = self.now();
        while self.now() < agreed + CONVERGENCE_TIMEOUT {
            let leader = (0..self.scenario.nodes).find(|node| {
                let status = self.status(*node);
                status.is_some_and(|status| status.valid_term().is_some())
            });
            if let Some(leader) = leader
                && client.call_once(leader, Duration::from_secs(1)).await
            {
                return self.step().await;
            }
            self.step().await?;
        }
        Err((
            "there is progress after healing",
            format!("the leader does not write within {CONVERGENCE_TIMEOUT:?}"),
        ))
    }

    /// Ends all instances as planned: the leader's lock key is deleted at once, and leftovers of faults expire. Then
    /// the history is checked.
    async fn end(&mut self) -> Result<(), Broken> {
        let statuses = (0..self.scenario.nodes).filter_map(|node| self.status(node));
        let leading: Vec<_> = statuses
            .filter_map(|status| status.valid_term().map(|term| term.lock_key().clone()))
            .collect();
        let nodes: Vec<Node> = self.nodes.borrow_mut().iter_mut().filter_map(Option::take).collect();
        for node in nodes {
            if !node.leave(CONVERGENCE_TIMEOUT).await {
                return Err((
                    "a planned end takes no time",
                    format!("a node has not left within {CONVERGENCE_TIMEOUT:?}"),
                ));
            }
            self.follow_store()?;
        }
        if let Some(key) = leading.iter().find(|key| self.terms.locks().any(|lock| lock == *key)) {
            return Err(("a planned end gives the lock back", format!("{key:?} is still there")));
        }
        tokio::time::sleep(TTL + Duration::from_secs(1)).await;
        self.follow_store()?;
        if let Some(key) = self.terms.locks().next() {
            return Err(("what is left behind runs out", format!("{key:?} is still there")));
        }
        history::check(
            &self.record.borrow().calls,
            &self.terms.versions,
            self.restored.as_ref(),
        )
    }

    async fn step(&mut self) -> Result<(), Broken> {
        tokio::time::sleep(STEP).await;
        let told = self.record.borrow_mut().told.as_mut().map(std::mem::take);
        self.note_calls(told.unwrap_or_default());
        self.follow_store()?;
        let looks: Vec<Look> = (0..self.scenario.nodes)
            .filter_map(|number| {
                let nodes = self.nodes.borrow();
                let node = nodes[number].as_ref()?;
                let status = node.status.borrow().clone();
                Some(Look {
                    node: number,
                    status,
                    running_since: (!node.gate.is_stopped()).then_some(node.running_since),
                })
            })
            .collect();
        for news in self.terms.look(self.now(), &looks)? {
            self.note(format_args!("{news}"));
        }
        {
            let mut record = self.record.borrow_mut();
            record.ended.clone_from(&self.terms.ended);
            if let Some(broken) = record.broken.take() {
                return Err(broken);
            }
        }
        if self.nodes.borrow().iter().flatten().any(Node::is_broken) {
            Err(("nothing panics", "a task of a node has ended by itself".into()))
        } else {
            Ok(())
        }
    }

    /// Reads the store's events since the last time.
    fn follow_store(&mut self) -> Result<(), Broken> {
        let now = self.now();
        let (changes, newest) = self.cluster.with_model(|model, _| {
            let changes = model.changes(&Keys::prefix("/"), self.followed.next());
            (changes, model.revision())
        });
        let changes = changes.unwrap_or_else(|error| panic!("followed before each compaction: {error}"));
        self.followed = newest;
        for change in changes {
            self.terms.follow(now, &change.events)?;
        }
        Ok(())
    }

    fn begin(&mut self, planned: &Planned) -> Result<(), Broken> {
        self.note(format_args!("#{} {}", planned.number, planned.fault));
        self.follow_store()?;
        match &planned.fault {
            // A fault that was drawn for more nodes than there are.
            Fault::Way { node, .. }
            | Fault::WatchesClose { node }
            | Fault::Stop { node }
            | Fault::Kill { node }
            | Fault::StepDown { node, .. }
            | Fault::Between { from: node, .. }
            | Fault::Between { to: node, .. }
            | Fault::Reset { one: node, .. }
            | Fault::Reset { other: node, .. }
                if *node >= self.scenario.nodes => {}
            Fault::Way { node, faults } => {
                self.ways[*node] = Some(planned.number);
                self.cluster.set_faults(*node, faults.clone());
            }
            Fault::WatchesClose { node } => self.cluster.close_watches(*node),
            Fault::Compaction => self.cluster.with_model(|model, _| {
                let newest = model.revision();
                // Already compacted is fine.
                let _ = model.compact(newest);
            }),
            Fault::LeaseRevoked { pick } => {
                let leases: Vec<_> = self
                    .cluster
                    .with_model(|model, _| model.leases().map(|(id, _)| id).collect());
                if !leases.is_empty() {
                    let oldest = self.terms.locks().next().filter(|_| pick % 2 == 0).cloned();
                    let oldest = oldest.and_then(|key| self.cluster.with_model(|model, _| model.get(&key)?.lease));
                    let lease = oldest.unwrap_or(leases[pick % leases.len()]);
                    self.terms.meddle_with_lease(lease);
                    // It exists: nothing has happened since it was listed.
                    let _ = self.cluster.with_model(|model, _| model.revoke(lease));
                    self.note(format_args!("lease {lease} is revoked"));
                }
            }
            Fault::LockReplaced { pick } => {
                let locks: Vec<_> = self.terms.locks().cloned().collect();
                if !locks.is_empty() {
                    let which = if pick % 2 == 0 { 0 } else { pick % locks.len() };
                    let key = locks[which].clone();
                    self.terms.meddle_with_lock(&key);
                    self.cluster.with_model(|model, _| {
                        let Some(kv) = model.get(&key).cloned() else { return };
                        let put = Op::Put {
                            key: key.clone(),
                            value: kv.value,
                            lease: kv.lease,
                        };
                        // Both name an existing key.
                        let _ = model.txn(&Txn::default().then(vec![Op::delete(key)]));
                        let _ = model.txn(&Txn::default().then(vec![put]));
                    });
                }
            }
            Fault::Restore => {
                let snapshot = self.cluster.with_model(|model, _| model.snapshot());
                self.snapshot = Some((snapshot, self.terms.keep()));
            }
            Fault::StoreFailover => self
                .cluster
                .with_model(|model, now| model.change_of_leader(now, Duration::from_secs(1))),
            Fault::Stop { node } => {
                if let Some(node) = &self.nodes.borrow()[*node] {
                    node.gate.stop();
                }
                self.set_network();
            }
            Fault::Kill { node } => {
                if let Some(node) = self.nodes.borrow_mut()[*node].take() {
                    node.kill();
                }
            }
            Fault::Between { .. } => {
                self.between.push(planned.clone());
                self.set_network();
            }
            Fault::Reset { one, other } => self.network.reset(node_address(*one), node_address(*other)),
            Fault::StepDown { node, to } => {
                if let Some(node) = &self.nodes.borrow()[*node] {
                    // It may be killed first.
                    spawn_local(node.step_down(to.map(name)));
                }
            }
        }
        Ok(())
    }

    /// Restores the store from the snapshot.
    fn restore(&mut self, snapshot: Snapshot, kept: Kept) -> Result<(), Broken> {
        self.follow_store()?;
        self.restored = Some(Restore {
            place: self.record.borrow_mut().moment(),
            before: self.terms.versions.clone(),
            kept: kept.versions().collect(),
        });
        let (from, to) = (self.followed, snapshot.revision());
        self.followed = to;
        self.terms.restored(self.now(), kept, to);
        self.cluster.restore(snapshot);
        self.note(format_args!("the store goes back from revision {from} to {to}"));
        Ok(())
    }

    fn is_over(&mut self, planned: &Planned) -> Result<(), Broken> {
        match &planned.fault {
            Fault::Way { node, .. } if self.ways.get(*node) == Some(&Some(planned.number)) => {
                self.ways[*node] = None;
                self.cluster.set_faults(*node, Faults::default());
            }
            Fault::Stop { node } if *node < self.scenario.nodes => self.go_on(*node),
            Fault::Between { .. } => {
                self.between.retain(|other| other.number != planned.number);
                self.set_network();
            }
            Fault::Kill { node } if *node < self.scenario.nodes && self.nodes.borrow()[*node].is_none() => {
                self.start(*node);
                return Ok(());
            }
            Fault::Restore => {
                if let Some((snapshot, kept)) = self.snapshot.take() {
                    self.restore(snapshot, kept)?;
                }
            }
            _ => return Ok(()),
        }
        self.note(format_args!("#{} is over", planned.number));
        Ok(())
    }

    fn go_on(&self, node: usize) {
        if let Some(node) = &mut self.nodes.borrow_mut()[node]
            && node.gate.is_stopped()
        {
            node.running_since = self.begun.elapsed();
            node.gate.go_on();
        }
        self.set_network();
    }

    /// The links between instances, given the current faults. A paused process neither sends nor receives.
    fn set_network(&self) {
        let stopped: Vec<bool> = self
            .nodes
            .borrow()
            .iter()
            .map(|node| node.as_ref().is_some_and(|node| node.gate.is_stopped()))
            .collect();
        for (node, stopped_node) in stopped.iter().enumerate() {
            for (other, stopped_other) in stopped.iter().enumerate() {
                let (mut cut, mut delay) = (*stopped_node || *stopped_other, Duration::ZERO);
                for planned in &self.between {
                    if let Fault::Between {
                        from,
                        to,
                        both,
                        cut: cuts,
                        delay: delays,
                    } = &planned.fault
                        && ((*from, *to) == (node, other) || *both && (*to, *from) == (node, other))
                    {
                        cut |= *cuts;
                        delay = delay.max(*delays);
                    }
                }
                self.network
                    .set_link(node_address(node), node_address(other), cut, delay);
            }
            for client in 0..=self.scenario.clients {
                let (node, client) = (node_address(node), client_address(client));
                self.network.set_link(node, client, *stopped_node, Duration::ZERO);
                self.network.set_link(client, node, *stopped_node, Duration::ZERO);
            }
        }
    }

    fn heal(&mut self) {
        self.note(format_args!("all is well again"));
        self.between.clear();
        self.set_network();
        for node in 0..self.scenario.nodes {
            self.cluster.set_faults(node, Faults::default());
            self.go_on(node);
            if self.nodes.borrow()[node].is_none() {
                self.start(node);
            }
        }
    }

    fn status(&self, node: usize) -> Option<LeaderStatus> {
        Some(self.nodes.borrow()[node].as_ref()?.status.borrow().clone())
    }

    fn all_agree(&self) -> bool {
        let statuses: Vec<_> = (0..self.scenario.nodes).filter_map(|node| self.status(node)).collect();
        let leaders: Vec<_> = statuses.iter().filter_map(ElectionStatus::valid_term).collect();
        let [leader] = leaders[..] else { return false };
        let following = statuses
            .iter()
            .filter_map(ElectionStatus::leader_info)
            .filter(|following| following.revision == leader.lock_revision());
        following.count() == self.scenario.nodes - 1
    }
}
