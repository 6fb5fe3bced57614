//! What a listener runs: its tasks and threads, from start to shutdown.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::accept::accept;
use super::admission::ConnectionLimiter;
use super::connection::Shared;
use super::progress::WorkerProbe;
use super::sockets::Acceptor;
use super::worker::{Accepted, Worker};
use super::{ListenError, Listener};
use crate::call::lifetime::RoleLifetime;
use crate::call::refusal::{Refusal, STOPPING};
use crate::config::ListenerConfig;
use crate::dispatch::hold_queue::HoldQueue;
use crate::dispatch::{Dispatcher, RouteUpdater};
use crate::forward::replay_body::ReplayBudget;
use crate::health;
use crate::limit_alerts::LimitAlerts;
use crate::memory::Memory;
use crate::role::Role;
use crate::services::Services;
use crate::telemetry::Metrics;

/// How long closed connections may take to end. A service that blocks its thread exceeds it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// A listener that runs.
pub(super) struct Lifecycle {
    config: Arc<ListenerConfig>,
    tokens: Tokens,
    /// The threads would not end with this value.
    _cut_when_dropped: DropGuard,
    unready: CancellationToken,
    limiter: Arc<ConnectionLimiter>,
    local_lifetime: Arc<RoleLifetime>,
    /// Calls and uploads.
    calls: TaskTracker,
    /// Memory report, health and route updater.
    background: JoinSet<&'static str>,
    accepting: JoinSet<()>,
    workers: JoinSet<()>,
    /// Kept, so that handles see when the listener ends.
    _probes: watch::Sender<Vec<WorkerProbe>>,
}

/// The steps of a shutdown, in this order.
#[derive(Clone)]
struct Tokens {
    /// Calls no longer wait for a leader, and connections get a GOAWAY.
    stopping: CancellationToken,
    /// Connections are not accepted any more. Until then clients that know no other address can still connect.
    stop_accepting: CancellationToken,
    /// Calls in flight end. They continue for a while after `stopping`, and need the connections to the leader.
    over: CancellationToken,
    /// The remaining connections are closed.
    cut: CancellationToken,
}

impl Lifecycle {
    /// Starts to serve.
    pub(super) fn start<T: Clone + Send + Sync + 'static>(
        listener: Listener,
        roles: watch::Receiver<Role<T>>,
        services: Services<T>,
        workers: Vec<Worker>,
        stopping: CancellationToken,
    ) -> Self {
        let Listener {
            sockets,
            addresses: _,
            config,
            route_updates,
            serving,
            unready,
            probes,
        } = listener;
        let tokens = Tokens {
            stopping,
            stop_accepting: CancellationToken::new(),
            over: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let limit_alerts = Arc::new(LimitAlerts::new(&config));
        let local_lifetime = RoleLifetime::new(None);
        let calls = TaskTracker::new();
        let kinds = services.kinds();
        let (local, services) = services.split();
        let shared = Arc::new(Shared {
            dispatcher: Arc::new(Dispatcher {
                local,
                local_lifetime: local_lifetime.clone(),
                kinds,
                route_updates: route_updates.subscribe(),
                hold_queue: HoldQueue::new(config.hold_limit, limit_alerts.clone()),
                replay_budget: ReplayBudget::new(config.max_kept_bytes),
                config: config.clone(),
                instance_id: instance_id(),
                stopping: tokens.stopping.clone(),
                tasks: calls.clone(),
                metrics: Metrics::new(),
                logged_unsupported: AtomicBool::new(false),
            }),
            memory: Memory::new(config.max_memory),
            stopping: tokens.stopping.clone(),
            stop_accepting: tokens.stop_accepting.clone(),
            tasks: calls.clone(),
        });
        let worker_probes: Vec<_> = workers.iter().map(|worker| worker.probe.clone()).collect();
        let runtimes = worker_probes.iter().map(|probe| probe.runtime.clone()).collect();

        let mut background = JoinSet::new();
        spawn_memory_report(&mut background, shared.memory.clone(), &tokens);
        let readiness = health::report(route_updates.subscribe(), serving, unready.clone());
        spawn_health(&mut background, readiness, &tokens);
        let updater = RouteUpdater::new(services, config.clone(), runtimes, route_updates);
        spawn_route_updater(&mut background, updater, roles, &tokens);

        let mut serving = JoinSet::new();
        let _cut_when_dropped = tokens.cut.clone().drop_guard();
        let queues = workers
            .into_iter()
            .enumerate()
            .map(|(number, worker)| worker.start(shared.clone(), number, tokens.cut.clone(), &mut serving))
            .collect();
        let limiter = ConnectionLimiter::new(&config, limit_alerts);
        let accepting = spawn_accept(sockets, &limiter, queues, &tokens);
        probes.send_replace(worker_probes);
        Self {
            config,
            tokens,
            _cut_when_dropped,
            unready,
            limiter,
            local_lifetime,
            calls,
            background,
            accepting,
            workers: serving,
            _probes: probes,
        }
    }

    /// Completes when the listener is told to stop, or with an error when one of its tasks ends.
    pub(super) async fn until_end(&mut self) -> Result<(), ListenError> {
        let stopping = &self.tokens.stopping;
        let ended = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            Some(ended) = self.background.join_next() => ended,
            Some(ended) = self.accepting.join_next() => ended.map(|()| "accept"),
            Some(ended) = self.workers.join_next() => ended.map(|()| "worker"),
        };
        match ended {
            // All tasks end when cancelled, which may be noticed first.
            Ok(_) if stopping.is_cancelled() => Ok(()),
            Ok(task) => Err(ListenError::Task(format!("({task}) ended unexpectedly"))),
            Err(panic) => Err(ListenError::Task(format!("panicked: {panic}"))),
        }
    }

    /// Drains the connections, then ends calls, then closes connections.
    pub(super) async fn shut_down(&mut self) {
        self.unready.cancel();
        self.tokens.stopping.cancel();
        let limit = self.config.drain_limit.min(self.config.grace);
        let drained = timeout(limit, self.limiter.empty()).await;
        self.tokens.stop_accepting.cancel();
        join_all(&mut self.accepting).await;
        if drained.is_err() {
            debug!("drain limit reached: ending the calls in flight");
            self.local_lifetime.end(Refusal::unavailable(STOPPING));
            self.tokens.over.cancel();
            let grace = self.config.grace - limit;
            if timeout(grace, join_all(&mut self.workers)).await.is_err() {
                debug!("grace period over: closing the remaining connections");
            }
        }
        self.tokens.over.cancel();
        self.tokens.cut.cancel();
        self.calls.close();
        let last = async {
            join_all(&mut self.workers).await;
            self.calls.wait().await;
        };
        if timeout(SHUTDOWN_TIMEOUT, last).await.is_err() {
            warn!("a service blocks its thread: the listener ends without waiting for it");
        }
        while self.background.join_next().await.is_some() {}
    }
}

fn spawn_memory_report(tasks: &mut JoinSet<&'static str>, memory: Arc<Memory>, tokens: &Tokens) {
    let over = tokens.over.clone();
    tasks.spawn(async move {
        over.run_until_cancelled(memory.report()).await;
        "memory report"
    });
}

fn spawn_health(
    tasks: &mut JoinSet<&'static str>,
    readiness: impl Future<Output = ()> + Send + 'static,
    tokens: &Tokens,
) {
    let stopping = tokens.stopping.clone();
    tasks.spawn(async move {
        readiness.await;
        stopping.cancelled().await;
        "health"
    });
}

fn spawn_route_updater<T: Clone + Send + Sync + 'static>(
    tasks: &mut JoinSet<&'static str>,
    updater: RouteUpdater<T>,
    roles: watch::Receiver<Role<T>>,
    tokens: &Tokens,
) {
    let over = tokens.over.clone();
    tasks.spawn(async move {
        updater.run(roles, over).await;
        "route updater"
    });
}

/// Accepts connections on all sockets. The tasks hold the only senders of the workers' queues, so that the workers end
/// after them.
fn spawn_accept(
    sockets: Vec<Acceptor>,
    limiter: &Arc<ConnectionLimiter>,
    queues: Vec<mpsc::Sender<Accepted>>,
    tokens: &Tokens,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for socket in sockets {
        let stop = tokens.stop_accepting.clone();
        tasks.spawn(accept(socket, limiter.clone(), queues.clone(), stop));
    }
    tasks
}

async fn join_all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// A random id of this process.
fn instance_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("0"))
}
