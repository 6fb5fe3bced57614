//! The listener: sockets that are open from start to exit, and what answers on them.

mod accept;
mod connection;
mod frames;
mod inflow;
mod intake;
mod limits;
mod outflow;
mod progress;
mod seats;
mod shard;
mod sockets;

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

use crate::call::Dispatcher;
use crate::config::ListenerConfig;
use crate::health::{self, HealthService};
use crate::hold::Hold;
use crate::lead::Drained;
use crate::memory::Memory;
use crate::meters::Meters;
use crate::reached::Reached;
use crate::refusal::Refusal;
use crate::role::StatusStream;
use crate::scope::Scope;
use crate::services::Services;
use crate::source::Budget;
use crate::target::{Target, Tracker};
pub(crate) use inflow::{Inflow, Keep};
pub(crate) use limits::{calls_of_stranger, window_of_all};

use accept::accept;
use connection::Shared;
use progress::Worker;
use seats::Seats;
use shard::Shard;
use sockets::Arrivals;

/// What has been cut is gone within this, unless a service blocks its thread.
const LAST: Duration = Duration::from_secs(1);

/// Where instances listen by default: all addresses of both families, on the Curator's port.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7835);

/// Sockets that are open, and not served yet.
pub struct Listener {
    sockets: Vec<Arrivals>,
    addresses: Vec<SocketAddr>,
    config: Arc<ListenerConfig>,
    targets: watch::Sender<Arc<Target>>,
    serving: watch::Sender<bool>,
    unready: CancellationToken,
    /// Where connections are served, once they are.
    workers: watch::Sender<Vec<Worker>>,
}

/// Asks a listener, while it runs and before.
#[derive(Clone)]
pub struct ListenerHandle {
    config: Arc<ListenerConfig>,
    targets: watch::Receiver<Arc<Target>>,
    serving: watch::Receiver<bool>,
    unready: CancellationToken,
    workers: watch::Receiver<Vec<Worker>>,
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
            opened = vec![Arrivals::Simulated(host.listen(), host.address())];
        }
        if opened.is_empty() {
            return Err(ListenError::Nowhere);
        }
        let unknown = Target::Unknown {
            reason: "this instance is starting".into(),
        };
        Ok(Self {
            sockets: opened,
            addresses: bound,
            config: Arc::new(config),
            targets: watch::Sender::new(Arc::new(unknown)),
            serving: watch::Sender::new(false),
            unready: CancellationToken::new(),
            workers: watch::Sender::default(),
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
            targets: self.targets.subscribe(),
            serving: self.serving.subscribe(),
            unready: self.unready.clone(),
            workers: self.workers.subscribe(),
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
            targets,
            serving,
            unready,
            workers: known_workers,
        } = self;
        // A failure here is not the caller's end.
        let cancel = cancel.child_token();
        let services = with_own_services(services, serving.subscribe(), &cancel)?;
        let kinds = services.kinds();
        let (local, services) = services.split();
        let mut shards = Vec::new();
        for number in 0..config.threads {
            shards.push(Shard::on_thread(number).await.map_err(ListenError::Thread)?);
        }
        if shards.is_empty() {
            shards.push(Shard::here());
        }
        let workers: Vec<_> = shards.iter().map(|shard| shard.worker.clone()).collect();
        let runtimes: Vec<_> = workers.iter().map(|worker| worker.runtime.clone()).collect();
        let tasks = TaskTracker::new();
        let local_scope = Scope::new(None);
        let reached = Arc::new(Reached::new(&config));
        let dispatcher = Arc::new(Dispatcher {
            local,
            local_scope: local_scope.clone(),
            kinds,
            targets: targets.subscribe(),
            hold: Hold::new(config.hold_limit, reached.clone()),
            budget: Budget::new(config.max_kept_bytes),
            config: config.clone(),
            me: instance_id(),
            stopping: cancel.clone(),
            tasks: tasks.clone(),
            meters: Meters::new(),
            complained: AtomicBool::new(false),
        });
        // Nobody is listened to any more. That is later: until then who has no other address finds somebody here.
        let deaf = CancellationToken::new();
        let shared = Arc::new(Shared {
            dispatcher,
            memory: Memory::new(config.max_memory),
            stopping: cancel.clone(),
            deaf: deaf.clone(),
            tasks: tasks.clone(),
        });
        // Calls under way go on for a while after the cancellation, and the way to the leader with them.
        let over = CancellationToken::new();
        let mut own = JoinSet::new();
        own.spawn({
            let (memory, over) = (shared.memory.clone(), over.clone());
            async move {
                over.run_until_cancelled(memory.tell()).await;
                "memory"
            }
        });
        own.spawn({
            let readiness = health::report(targets.subscribe(), serving, unready.clone());
            let cancel = cancel.clone();
            async move {
                readiness.await;
                cancel.cancelled().await;
                "health"
            }
        });
        own.spawn({
            let tracker = Tracker::new(services, config.clone(), runtimes, targets);
            let (roles, over) = (status.subscribe(), over.clone());
            async move {
                tracker.run(roles, over).await;
                "tracker"
            }
        });
        let (cut, mut serving) = (CancellationToken::new(), JoinSet::new());
        // Threads do not end because nobody waits for them any more.
        let _cut_when_dropped = cut.clone().drop_guard();
        let ways: Vec<_> = shards
            .into_iter()
            .enumerate()
            .map(|(number, shard)| shard.start(shared.clone(), number, cut.clone(), &mut serving))
            .collect();
        let seats = Seats::new(&config, reached);
        let mut accepting = JoinSet::new();
        for socket in sockets {
            accepting.spawn(accept(socket, seats.clone(), ways.clone(), deaf.clone()));
        }
        known_workers.send_replace(workers);
        // Theirs are the last: the shards end when those have ended.
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
        let drained = timeout(limit, seats.empty()).await;
        deaf.cancel();
        all(&mut accepting).await;
        if drained.is_err() {
            debug!("calls under way are ended");
            local_scope.end(Refusal::unavailable("this instance is stopping"));
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
        if timeout(LAST, last).await.is_err() {
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
        let mut known = self.workers.clone();
        let workers = known.wait_for(|workers| !workers.is_empty()).await;
        let Ok(workers) = workers.map(|workers| workers.clone()) else {
            // The listener has ended without having run.
            return std::future::pending().await;
        };
        join_all(workers.iter().map(Worker::responds)).await;
        // A runtime may be the caller's, and outlive the listener.
        if self.workers.has_changed().is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Completes once a call to this instance gets to a leader, whatever it reports of itself. Cancellation safe.
    pub async fn reaches_leader(&self) {
        let mut targets = self.targets.clone();
        loop {
            let target = targets.borrow_and_update().clone();
            let there = async {
                match &*target {
                    Target::Unknown { .. } => {}
                    Target::Lead(lead) if lead.running.is_draining() => {}
                    Target::Lead(_) => return,
                    Target::Follow(follow) => {
                        if follow.connected().await {
                            return;
                        }
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = there => return,
                changed = targets.changed() => if changed.is_err() {
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
        let target = self.targets.borrow().clone();
        match &*target {
            Target::Lead(lead) => Some(lead.running.drain(self.config.drain_limit).await),
            Target::Follow(_) | Target::Unknown { .. } => None,
        }
    }
}
