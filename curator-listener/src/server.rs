//! The listener: its sockets, its lifecycle, and the handle to it.

mod accept;
mod accept_batch;
mod admission;
mod connection;
mod limits;
mod progress;
mod response_writer;
mod sockets;
mod tls;
mod worker;

use std::collections::HashSet;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::future::join_all;
use http::HeaderValue;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::call::lifetime::RoleLifetime;
use crate::call::refusal::Refusal;
use crate::config::ListenerConfig;
use crate::dispatch::Dispatcher;
use crate::dispatch::hold_queue::HoldQueue;
use crate::dispatch::routing::{Route, RouteUpdater};
use crate::forward::replay_body::ReplayBudget;
use crate::health;
use crate::health::HealthService;
use crate::limit_alerts::LimitAlerts;
use crate::local::Drained;
use crate::memory::Memory;
use crate::role::StatusStream;
use crate::services::Services;
use crate::telemetry::Metrics;

use accept::accept;
use admission::ConnectionLimiter;
use connection::Shared;
use progress::WorkerProbe;
use sockets::Acceptor;
use worker::Worker;

/// How long closed connections may take to end. A service that blocks its thread exceeds it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The default address: all addresses of both families, on the port of the Curator.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7835);

/// Open sockets that are not served yet.
pub struct Listener {
    sockets: Vec<Acceptor>,
    addresses: Vec<SocketAddr>,
    config: Arc<ListenerConfig>,
    route_updates: watch::Sender<Arc<Route>>,
    serving: watch::Sender<bool>,
    unready: CancellationToken,
    /// The workers, once the listener runs.
    probes: watch::Sender<Vec<WorkerProbe>>,
}

/// A handle to a listener, before and while it runs.
#[derive(Clone)]
pub struct ListenerHandle {
    config: Arc<ListenerConfig>,
    route_updates: watch::Receiver<Arc<Route>>,
    serving: watch::Receiver<bool>,
    unready: CancellationToken,
    probes: watch::Receiver<Vec<WorkerProbe>>,
}

/// Why the listener cannot start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// No address was given.
    #[error("there is no address to listen on: give one at least, for example {DEFAULT_ADDRESS}")]
    Nowhere,
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another address, or stop what holds it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// A worker thread cannot be started.
    #[error("cannot start a thread for connections: {0}")]
    Thread(io::Error),
    /// The descriptors cannot be used for server reflection.
    #[error("the descriptors cannot be served by reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A task of the listener ended unexpectedly.
    #[error("a task of the listener {0}")]
    Task(String),
}

impl Listener {
    /// Opens the sockets. Connections wait in their backlogs until [`run`](Self::run). `[::]` listens on IPv4 as
    /// well.
    ///
    /// # Errors
    /// If no address is given or one of them cannot be bound.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn bind(addresses: impl IntoIterator<Item = SocketAddr>, config: ListenerConfig) -> Result<Self, ListenError> {
        let mut opened = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let failed = |source| ListenError::Bind { address, source };
            let socket = sockets::listen(address).map_err(failed)?;
            bound.push(socket.address().map_err(failed)?);
            opened.push(socket);
        }
        #[cfg(feature = "simulation")]
        if let Some(host) = &config.simulated {
            bound = vec![host.address()];
            opened = vec![Acceptor::Simulated(host.listen(), host.address())];
        }
        if opened.is_empty() {
            return Err(ListenError::Nowhere);
        }
        let unknown = Route::Undetermined {
            reason: "this instance is starting".into(),
        };
        Ok(Self {
            sockets: opened,
            addresses: bound,
            config: Arc::new(config),
            route_updates: watch::Sender::new(Arc::new(unknown)),
            serving: watch::Sender::new(false),
            unready: CancellationToken::new(),
            probes: watch::Sender::default(),
        })
    }

    /// The addresses of the sockets, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle to the listener.
    #[must_use]
    pub fn handle(&self) -> ListenerHandle {
        ListenerHandle {
            config: self.config.clone(),
            route_updates: self.route_updates.subscribe(),
            serving: self.serving.subscribe(),
            unready: self.unready.clone(),
            probes: self.probes.subscribe(),
        }
    }

    /// Serves calls until cancelled. Then it sends a GOAWAY on its connections and waits for the calls in flight. New
    /// connections are still accepted, for clients that know no other address. After
    /// [`drain_limit`](ListenerConfig::drain_limit) it stops listening and ends the remaining calls with
    /// `UNAVAILABLE`. After [`grace`](ListenerConfig::grace) it closes the remaining connections.
    ///
    /// Not cancellation safe: dropping the future closes all connections.
    ///
    /// # Errors
    /// If a worker or reflection cannot be started, or a task ended unexpectedly.
    pub async fn run(
        self,
        status: impl StatusStream,
        services: Services,
        cancel: CancellationToken,
    ) -> Result<(), ListenError> {
        let Self {
            sockets,
            addresses: _,
            config,
            route_updates,
            serving,
            unready,
            probes: known_probes,
        } = self;
        // A failure of the listener must not cancel the caller's token.
        let cancel = cancel.child_token();
        let services = with_own_services(services, serving.subscribe(), &cancel)?;
        let kinds = services.kinds();
        let (local, services) = services.split();
        let mut workers = Vec::new();
        for number in 0..config.threads {
            workers.push(Worker::on_thread(number).await.map_err(ListenError::Thread)?);
        }
        if workers.is_empty() {
            workers.push(Worker::here());
        }
        let probes: Vec<_> = workers.iter().map(|worker| worker.probe.clone()).collect();
        let runtimes: Vec<_> = probes.iter().map(|probe| probe.runtime.clone()).collect();
        let tasks = TaskTracker::new();
        let local_lifetime = RoleLifetime::new(None);
        let limit_alerts = Arc::new(LimitAlerts::new(&config));
        let dispatcher = Arc::new(Dispatcher {
            local,
            local_lifetime: local_lifetime.clone(),
            kinds,
            route_updates: route_updates.subscribe(),
            hold_queue: HoldQueue::new(config.hold_limit, limit_alerts.clone()),
            replay_budget: ReplayBudget::new(config.max_kept_bytes),
            config: config.clone(),
            instance_id: instance_id(),
            stopping: cancel.clone(),
            tasks: tasks.clone(),
            metrics: Metrics::new(),
            logged_unsupported: AtomicBool::new(false),
        });
        // Cancelled later than `cancel`: until then clients that know no other address can still connect.
        let stop_accepting = CancellationToken::new();
        let shared = Arc::new(Shared {
            dispatcher,
            memory: Memory::new(config.max_memory),
            stopping: cancel.clone(),
            stop_accepting: stop_accepting.clone(),
            tasks: tasks.clone(),
        });
        // Calls in flight continue for a while after the cancellation, and need the connections to the leader.
        let over = CancellationToken::new();
        let mut own = JoinSet::new();
        own.spawn({
            let (memory, over) = (shared.memory.clone(), over.clone());
            async move {
                over.run_until_cancelled(memory.report()).await;
                "memory"
            }
        });
        own.spawn({
            let readiness = health::report(route_updates.subscribe(), serving, unready.clone());
            let cancel = cancel.clone();
            async move {
                readiness.await;
                cancel.cancelled().await;
                "health"
            }
        });
        own.spawn({
            let tracker = RouteUpdater::new(services, config.clone(), runtimes, route_updates);
            let (roles, over) = (status.subscribe(), over.clone());
            async move {
                tracker.run(roles, over).await;
                "tracker"
            }
        });
        let (cut, mut serving) = (CancellationToken::new(), JoinSet::new());
        // The threads would not end with this future.
        let _cut_when_dropped = cut.clone().drop_guard();
        let ways: Vec<_> = workers
            .into_iter()
            .enumerate()
            .map(|(number, worker)| worker.start(shared.clone(), number, cut.clone(), &mut serving))
            .collect();
        let limiter = ConnectionLimiter::new(&config, limit_alerts);
        let mut accepting = JoinSet::new();
        for socket in sockets {
            accepting.spawn(accept(socket, limiter.clone(), ways.clone(), stop_accepting.clone()));
        }
        known_probes.send_replace(probes);
        // The accept tasks hold the other senders: the workers end after them.
        drop(ways);
        let outcome = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = own.join_next() => Err(ended),
            Some(ended) = accepting.join_next() => Err(ended.map(|()| "accept")),
            Some(ended) = serving.join_next() => Err(ended.map(|()| "serve")),
        };
        let outcome = match outcome {
            // All tasks end when cancelled, which may be noticed first.
            Err(Ok(_)) if cancel.is_cancelled() => Ok(()),
            Err(Ok(task)) => Err(ListenError::Task(format!(
                "({task}) returned although nobody asked it to"
            ))),
            Err(Err(panic)) => Err(ListenError::Task(format!("panicked: {panic}"))),
            Ok(()) => Ok(()),
        };
        unready.cancel();
        cancel.cancel();
        let limit = config.drain_limit.min(config.grace);
        let drained = timeout(limit, limiter.empty()).await;
        stop_accepting.cancel();
        all(&mut accepting).await;
        if drained.is_err() {
            debug!("calls under way are ended");
            local_lifetime.end(Refusal::unavailable("this instance is stopping"));
            over.cancel();
            if timeout(config.grace - limit, all(&mut serving)).await.is_err() {
                debug!("connections are cut");
            }
        }
        over.cancel();
        cut.cancel();
        tasks.close();
        let last = async {
            all(&mut serving).await;
            tasks.wait().await;
        };
        if timeout(SHUTDOWN_TIMEOUT, last).await.is_err() {
            warn!("a service does not let go of its thread: the listener ends without it");
        }
        while own.join_next().await.is_some() {}
        outcome
    }
}

async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// Adds the services of every instance: health and reflection.
fn with_own_services(
    services: Services,
    serving: watch::Receiver<bool>,
    stopping: &CancellationToken,
) -> Result<Services, ListenError> {
    let mut services = services;
    if !services.descriptors().is_empty() {
        let build = || {
            let start = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(health::FILE_DESCRIPTOR_SET);
            services
                .descriptors()
                .iter()
                .fold(start, |builder, set| builder.register_encoded_file_descriptor_set(set))
        };
        let (newer, older) = (build().build_v1()?, build().build_v1alpha()?);
        services = services.local(newer).local(older);
    }
    let mut local: HashSet<&'static str> = services.local_names().iter().copied().collect();
    local.insert("grpc.health.v1.Health");
    let led = services
        .names()
        .into_iter()
        .filter(|name| !local.contains(name.as_str()))
        .collect();
    Ok(services.local(HealthService::server(serving, local, led, stopping.clone())))
}

/// A random id of this process.
fn instance_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

impl ListenerHandle {
    /// Whether a call to this instance reaches a leader, and its changes: what `grpc.health.v1` reports.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serving.clone()
    }

    /// Completes when each worker thread has run a new task or has made progress with its connections, so that none
    /// of them is blocked. Never completes while one is blocked, before the listener [runs](Listener::run), or after
    /// it has ended. Cancellation safe.
    pub async fn responds(&self) {
        let mut known = self.probes.clone();
        let probes = known.wait_for(|probes| !probes.is_empty()).await;
        let Ok(probes) = probes.map(|probes| probes.clone()) else {
            // The listener has ended without having run.
            return std::future::pending().await;
        };
        join_all(probes.iter().map(WorkerProbe::responds)).await;
        // The runtime may be the caller's, and outlive the listener.
        if self.probes.has_changed().is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Completes when a call to this instance would reach a leader, whatever the health service reports. Cancellation
    /// safe.
    pub async fn reaches_leader(&self) {
        let mut route_updates = self.route_updates.clone();
        loop {
            let route = route_updates.borrow_and_update().clone();
            let there = async {
                match &*route {
                    Route::Undetermined { .. } => {}
                    Route::Leader(lead) if lead.in_flight.is_draining() => {}
                    Route::Leader(_) => return,
                    Route::Follower(follow) => {
                        if follow.connected().await {
                            return;
                        }
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = there => return,
                changed = route_updates.changed() => if changed.is_err() {
                    // The listener has ended.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Reports NOT_SERVING from now on. Calls are still answered.
    pub fn unready(&self) {
        self.unready.cancel();
    }

    /// Prepares for the planned end of this instance's term: it starts no new calls. New calls wait for the next
    /// leader, and calls that followers have forwarded are returned to them. Completes when the calls in flight are
    /// answered, at most after [`drain_limit`](ListenerConfig::drain_limit); at once if this instance is not the
    /// leader. Only young and active streams are waited for.
    ///
    /// The caller must then end the term. Cancellation: the term accepts no new calls afterwards either.
    pub async fn drain(&self) -> Option<Drained> {
        let route = self.route_updates.borrow().clone();
        match &*route {
            Route::Leader(lead) => Some(lead.in_flight.drain(self.config.drain_limit).await),
            Route::Follower(_) | Route::Undetermined { .. } => None,
        }
    }
}
