//! The listener: sockets that are open from start to exit, and what answers on them.

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

/// What has been cut is gone within this, unless a service blocks its thread.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Where instances listen by default: all addresses of both families, on the Curator's port.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7835);

/// Sockets that are open, and not served yet.
pub struct Listener {
    sockets: Vec<Acceptor>,
    addresses: Vec<SocketAddr>,
    config: Arc<ListenerConfig>,
    route_updates: watch::Sender<Arc<Route>>,
    serving: watch::Sender<bool>,
    unready: CancellationToken,
    /// Where connections are served, once they are.
    probes: watch::Sender<Vec<WorkerProbe>>,
}

/// Asks a listener, while it runs and before.
#[derive(Clone)]
pub struct ListenerHandle {
    config: Arc<ListenerConfig>,
    route_updates: watch::Receiver<Arc<Route>>,
    serving: watch::Receiver<bool>,
    unready: CancellationToken,
    probes: watch::Receiver<Vec<WorkerProbe>>,
}

/// Why the listener cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// There is no address to listen on.
    #[error("there is no address to listen on: give one at least, for example {DEFAULT_ADDRESS}")]
    Nowhere,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address, or stop what holds it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// There can be no thread to serve connections on.
    #[error("cannot start a thread for connections: {0}")]
    Thread(io::Error),
    /// Server reflection cannot be made from the descriptors.
    #[error("the descriptors cannot be served by reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A task of the listener ended by itself.
    #[error("a task of the listener {0}")]
    Task(String),
}

impl Listener {
    /// Opens the sockets. Connections wait in their queues until [`run`](Self::run). `[::]` listens for IPv4 as well.
    ///
    /// # Errors
    /// There is no address, or one of them cannot be listened on.
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

    /// The addresses that are listened on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle to ask with.
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

    /// Answers calls until cancelled. Then it tells its connections to go elsewhere, and waits for the calls under way; new
    /// connections are taken meanwhile, for those who know no other address. After [`drain_limit`](ListenerConfig::drain_limit)
    /// it listens no more, and ends the calls that are still there with `UNAVAILABLE`; what is left after
    /// [`grace`](ListenerConfig::grace) is cut.
    ///
    /// Not cancellation safe: when the future is dropped, so are all connections.
    ///
    /// # Errors
    /// The services cannot be described, or a task ended that should have gone on.
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
        // A failure here is not the caller's end.
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
        // Nobody is listened to any more. That is later: until then who has no other address finds somebody here.
        let stop_accepting = CancellationToken::new();
        let shared = Arc::new(Shared {
            dispatcher,
            memory: Memory::new(config.max_memory),
            stopping: cancel.clone(),
            stop_accepting: stop_accepting.clone(),
            tasks: tasks.clone(),
        });
        // Calls under way go on for a while after the cancellation, and the way to the leader with them.
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
        // Threads do not end because nobody waits for them any more.
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
        // Theirs are the last: the workers end when those have ended.
        drop(ways);
        let outcome = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = own.join_next() => Err(ended),
            Some(ended) = accepting.join_next() => Err(ended.map(|()| "accept")),
            Some(ended) = serving.join_next() => Err(ended.map(|()| "serve")),
        };
        let outcome = match outcome {
            // All of them end by themselves when cancelled, which may be noticed first.
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

/// The given services, and those that every instance has: health and reflection.
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

/// A name that no other process has.
fn instance_id() -> HeaderValue {
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

impl ListenerHandle {
    /// Whether a call to this instance gets to a leader, and its changes. What `grpc.health.v1` says.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serving.clone()
    }

    /// Completes once each thread that serves connections has done something that was asked of it, or has got on with what it
    /// has to do: none of them is blocked. Never, while one of them is, or before the listener [serves](Listener::run), or after
    /// it has ended. Cancellation safe.
    pub async fn responds(&self) {
        let mut known = self.probes.clone();
        let probes = known.wait_for(|probes| !probes.is_empty()).await;
        let Ok(probes) = probes.map(|probes| probes.clone()) else {
            // The listener has ended without having run.
            return std::future::pending().await;
        };
        join_all(probes.iter().map(WorkerProbe::responds)).await;
        // A runtime may be the caller's, and outlive the listener.
        if self.probes.has_changed().is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Completes once a call to this instance gets to a leader, whatever it reports of itself. Cancellation safe.
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

    /// Reports from now on that this instance is not to be called. It still answers.
    pub fn unready(&self) {
        self.unready.cancel();
    }

    /// Prepares for a planned end of this instance's term: no call is begun in it any more. New ones wait for the next leader;
    /// those that followers forwarded go back to them untouched. Returns once the calls under way have been answered, at most
    /// after [`drain_limit`](ListenerConfig::drain_limit), and at once if this instance does not lead. Streams are waited for
    /// only while they are young and moving.
    ///
    /// To be followed by the end of the term. Cancellation: the term takes no new calls all the same.
    pub async fn drain(&self) -> Option<Drained> {
        let route = self.route_updates.borrow().clone();
        match &*route {
            Route::Leader(lead) => Some(lead.in_flight.drain(self.config.drain_limit).await),
            Route::Follower(_) | Route::Undetermined { .. } => None,
        }
    }
}
