//! One instance: its elector, the state in each of its terms, and its listener, as a process that can be paused and
//! killed.

use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::SharedClock;
use curator_election::memory::{MemoryClient, PauseSwitch};
use curator_election::store::Store;
use curator_election::{ElectionStatus, Elector, ElectorConfig, ElectorHandle, StoreElection, transfer_leadership};
use curator_glue::leader_suspected;
use curator_listener::testing::sim_network::SimHost;
use curator_listener::{Listener, ListenerConfig, Role, Services};
use curator_proto::private::LeaderElectionValue;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

use crate::instance::role;
use crate::instance::role::Roles;
use crate::state::State;
use crate::state::limits::StateLimits;
use crate::status::LeaderStatus;
use crate::testing::simulation::registers::{Asked, Registers, Told};
use crate::testing::simulation::scenario::TTL;
use crate::testing::simulation::terms::LOCKS;
use curator_election::fence::Fenced;

/// The failover limits of the instances. One has none, as an instance of an older version.
const FAILOVER_LIMITS: [Option<Duration>; 4] = [
    Some(Duration::from_secs(1)),
    Some(Duration::from_millis(500)),
    Some(Duration::from_millis(1_500)),
    None,
];

/// A running instance.
pub(super) struct Node {
    pub(super) gate: PauseSwitch,
    pub(super) status: watch::Receiver<LeaderStatus>,
    elector: ElectorHandle<LeaderElectionValue>,
    backend: Arc<StoreElection<dyn Store>>,
    value: LeaderElectionValue,
    /// Since when it has been running without a pause.
    pub(super) running_since: Duration,
    registers: Registers,
    leave: CancellationToken,
    killed: CancellationToken,
    /// Tasks that must not end by themselves.
    tasks: Vec<JoinHandle<()>>,
    electing: JoinHandle<()>,
}

/// The parameters of an instance.
pub(super) struct Start {
    pub(super) number: usize,
    pub(super) store: MemoryClient,
    pub(super) clock: SharedClock,
    pub(super) seed: u64,
    /// Whether it may have a failover limit.
    pub(super) limited: bool,
    pub(super) now: Duration,
    /// Its address in the network, if it listens.
    pub(super) host: Option<SimHost>,
}

impl Node {
    pub(super) fn start(start: Start) -> Self {
        let Start {
            number,
            store,
            clock,
            seed,
            limited,
            now,
            host,
        } = start;
        let store: Arc<dyn Store> = Arc::new(store);
        let backend = Arc::new(StoreElection::new(store.clone(), LOCKS, TTL / 3).with_seed(seed));
        let config = ElectorConfig {
            ttl: TTL,
            failover_limit: FAILOVER_LIMITS[number % FAILOVER_LIMITS.len()].filter(|_| limited),
            clock,
            seed: Some(seed),
            ..ElectorConfig::default()
        };
        let address = host.as_ref().map(|host| host.address().to_string());
        let value = LeaderElectionValue {
            node_id: name(number),
            ttl: TTL.as_secs(),
            advertised_addresses: address.into_iter().collect(),
            process: format!("{seed:x}"),
            ..LeaderElectionValue::default()
        };
        let elector = Elector::new(backend.clone(), &value, config).unwrap_or_else(|error| panic!("{error}"));
        let handle = elector.handle();
        let (gate, leave, killed) = (
            PauseSwitch::default(),
            CancellationToken::new(),
            CancellationToken::new(),
        );
        let electing = spawn_local(gate.run(elector.run(leave.clone())));
        let (states, state) = watch::channel(None);
        let registers = Registers {
            node: number,
            state,
            gate: gate.clone(),
            killed: killed.clone(),
        };
        let mut tasks = vec![spawn_local(gate.run(lead(handle.status(), store, states)))];
        if let Some(host) = host {
            let (sender, roles) = watch::channel(role::role(&handle.status().borrow(), |_| ()));
            tasks.push(spawn_local(gate.run(translate(handle.status(), sender))));
            tasks.push(spawn_local(listen(host, roles, registers.clone(), handle.clone())));
        }
        Self {
            gate,
            status: handle.status(),
            elector: handle,
            backend,
            value,
            running_since: now,
            registers,
            leave,
            killed,
            tasks,
            electing,
        }
    }

    /// Executes a call with the state of the current term, past the listener. `None` if it does not lead.
    pub(super) fn call(&self, asked: Asked) -> impl Future<Output = Option<Result<Told, Status>>> + 'static {
        let registers = self.registers.clone();
        async move { registers.carry_out(asked).await }
    }

    /// Ends its term as planned, if it leads; first makes the candidate `to` the next one, if named and possible.
    pub(super) fn step_down(&self, to: Option<String>) -> impl Future<Output = ()> + 'static {
        let (elector, backend, value) = (self.elector.clone(), self.backend.clone(), self.value.clone());
        let (term, killed) = (self.status.borrow().valid_term().cloned(), self.killed.clone());
        self.gate.run(async move {
            let stepping_down = async {
                if let (Some(to), Some(term)) = (to, term) {
                    // It steps down anyway.
                    let _ = transfer_leadership(&*backend, &term, &value, &to, TTL / 3).await;
                }
                let _ = elector.step_down().await;
            };
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                () = stepping_down => {}
            }
        })
    }

    /// The process is dead.
    pub(super) fn kill(self) {
        self.electing.abort();
        for task in &self.tasks {
            task.abort();
        }
        self.killed.cancel();
        // A paused process would never notice.
        self.gate.go_on();
    }

    /// Ends it as planned; returns whether it ended in time.
    pub(super) async fn leave(self, limit: Duration) -> bool {
        self.leave.cancel();
        let left = tokio::time::timeout(limit, self.electing).await;
        for task in &self.tasks {
            task.abort();
        }
        matches!(left, Ok(Ok(())))
    }

    /// Whether one of its tasks has ended by itself.
    pub(super) fn is_broken(&self) -> bool {
        self.electing.is_finished() || self.tasks.iter().any(JoinHandle::is_finished)
    }
}

/// The instance's node id.
pub(super) fn name(node: usize) -> String {
    format!("node-{node}")
}

/// Maintains the state in each term, as the service does.
async fn lead(
    mut status: watch::Receiver<LeaderStatus>,
    store: Arc<dyn Store>,
    present: watch::Sender<Option<Arc<State>>>,
) {
    loop {
        let term = match &*status.borrow_and_update() {
            ElectionStatus::Leader(term) => Some(term.clone()),
            _ => None,
        };
        let state = term.map(|term| State::new(Fenced::new(store.clone(), term), StateLimits::default()));
        present.send_replace(state.clone());
        let running = async {
            if let Some(state) = state {
                state.run().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            changed = status.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = running => {}
        }
    }
}

async fn translate(mut status: watch::Receiver<LeaderStatus>, roles: watch::Sender<Role>) {
    loop {
        let newest = role::role(&status.borrow_and_update(), |_| ());
        roles.send_if_modified(|known| {
            let changed = *known != newest;
            *known = newest;
            changed
        });
        if status.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn listen(
    host: SimHost,
    roles: watch::Receiver<Role>,
    registers: Registers,
    elector: ElectorHandle<LeaderElectionValue>,
) {
    let mut config = ListenerConfig::default().hold_for_ttl(TTL);
    config.leader_suspected = Some(leader_suspected(elector));
    config.simulated = Some(host);
    let listener = Listener::bind([], config).unwrap_or_else(|error| panic!("{error}"));
    let services = Services::new(move |term| {
        let serving = registers.clone().in_term(term.term.lock_revision);
        Routes::default().add_service(serving)
    });
    let ended = listener.run(Roles(roles), services, CancellationToken::new()).await;
    // The world detects the end of this task.
    tracing::error!(?ended, "the listener has ended");
}
