//! The connections to one leader: opened before the first call, replaced when they end, and more when they are full.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rand::RngExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::call::Kind;
use crate::caller::Standing;
use crate::config::ListenerConfig;
use crate::forward::connection::{Closed, Connection, Slot, Suspicion, connect};
use crate::role::Leader;

/// The delay after the first failed attempt to connect. It doubles up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// The maximum number of connections of a group.
const MAX_CONNECTIONS: usize = 64;

/// The maximum number of connections for strangers, who have few calls.
const MAX_STRANGER_CONNECTIONS: usize = 8;

/// The part of a connection's capacity that calls of its own group may use ...
const WHOLE: usize = 1;
/// ... and the part that calls of another group may use.
const SPILL_DIVISOR: usize = 4;

/// The connections to one leader. Dropping it stops the tasks that maintain them.
pub(crate) struct Pool {
    unary: Arc<ConnectionGroup>,
    streams: Arc<ConnectionGroup>,
    /// For strangers, if the listener uses TLS. They can only disturb each other.
    strangers: Arc<ConnectionGroup>,
    ready: watch::Receiver<Ready>,
    _stop: DropGuard,
}

/// Whether calls can be sent.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// Whether a connection for unary calls is open.
    pub(crate) open: bool,
    /// Incremented with each connection that opens or ends.
    changes: u64,
    /// Why no connection is open. It is reported to callers, who may be strangers.
    why: String,
}

/// The connections for one group of calls.
struct ConnectionGroup {
    connections: RwLock<Vec<Arc<Connection>>>,
    /// The maximum number of calls on each connection.
    calls: usize,
    /// When all connections have this many calls, another one is opened.
    full: usize,
    /// The minimum and maximum number of connections.
    min: usize,
    max: usize,
    more: Notify,
}

impl ConnectionGroup {
    fn new(config: &ListenerConfig, min: usize, max: usize) -> Arc<Self> {
        let calls = usize::try_from(config.calls_to_leader()).unwrap_or(usize::MAX).max(1);
        Arc::new(Self {
            connections: RwLock::default(),
            calls,
            full: (calls / 4 * 3).max(1),
            min: min.clamp(1, max),
            max,
            more: Notify::new(),
        })
    }

    /// A slot on the connection with the fewest calls, if they are fewer than the given part of its capacity.
    fn slot(&self, pool: &Arc<Pool>, part: usize) -> Option<Slot> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let mut emptiest: Option<((bool, usize), &Arc<Connection>)> = None;
        for connection in connections.iter() {
            let Some(open) = connection.open() else { continue };
            let rank = (connection.is_worn(), open);
            if emptiest.is_none_or(|(min, _)| rank < min) {
                emptiest = Some((rank, connection));
            }
        }
        let ((worn, open), connection) = emptiest?;
        if worn || open >= self.full {
            self.more.notify_one();
        }
        // When it is full, another connection is being opened.
        (open < self.calls.div_ceil(part)).then(|| connection.slot(pool.clone()))
    }

    fn add(&self, connection: Arc<Connection>) {
        self.connections
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }

    /// Removes connections that have ended, and worn ones if there are others. Returns how many are left. A worn
    /// connection stays open until its last call has ended.
    fn prune(&self) -> usize {
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.open().is_some());
        if connections.iter().any(|connection| !connection.is_worn()) {
            connections.retain(|connection| !connection.is_worn());
        }
        connections.len()
    }

    /// The number of connections that should be open now.
    fn wanted(&self) -> usize {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let all_full = connections
            .iter()
            .all(|c| c.is_worn() || c.open().is_some_and(|open| open >= self.full));
        let more = usize::from(all_full && !connections.is_empty());
        (connections.len() + more).clamp(self.min, self.max)
    }
}

impl Pool {
    /// Starts to connect to the leader. `tasks` owns the tasks of the connections, which run on `runtime`.
    pub(crate) fn start(
        leader: &Leader,
        config: &Arc<ListenerConfig>,
        runtime: &Handle,
        tasks: &mut JoinSet<()>,
        suspicion: Option<Suspicion>,
    ) -> Arc<Self> {
        let unary = ConnectionGroup::new(config, config.leader_connections, MAX_CONNECTIONS);
        let streams = ConnectionGroup::new(config, 1, MAX_CONNECTIONS);
        let strangers = ConnectionGroup::new(config, 1, MAX_STRANGER_CONNECTIONS);
        let why = if leader.addresses.is_empty() {
            format!("the leader {} does not publish an address", leader.node_id)
        } else {
            "not connected to the leader yet".to_owned()
        };
        let (ready, readiness) = watch::channel(Ready {
            open: false,
            changes: 0,
            why,
        });
        let stop = CancellationToken::new();
        if !leader.addresses.is_empty() {
            let mut groups = vec![(&unary, Some(ready), suspicion), (&streams, None, None)];
            if config.tls.is_some() {
                groups.push((&strangers, None, None));
            }
            for (group, reports, suspicion) in groups {
                let keeping = keep(group.clone(), leader.clone(), config.clone(), reports, suspicion);
                let stop = stop.clone();
                let keeping = async move {
                    let _ = stop.run_until_cancelled_owned(keeping).await;
                };
                tasks.spawn_on(keeping, runtime);
            }
        }
        Arc::new(Self {
            unary,
            streams,
            strangers,
            ready: readiness,
            _stop: stop.drop_guard(),
        })
    }

    /// A slot for one call, or the reason why there is none.
    pub(crate) fn slot(self: &Arc<Self>, kind: Kind, standing: Standing) -> Result<Slot, String> {
        let slot = match (standing, kind) {
            (Standing::Stranger, _) => self.strangers.slot(self, WHOLE),
            // Rather a connection for streams than none.
            (_, Kind::Unary) => self.unary.slot(self, WHOLE).or_else(|| self.streams.slot(self, WHOLE)),
            // A flood of streams must leave slots for unary calls.
            (_, Kind::Stream) => self
                .streams
                .slot(self, WHOLE)
                .or_else(|| self.unary.slot(self, SPILL_DIVISOR)),
        };
        if let Some(slot) = slot {
            return Ok(slot);
        }
        let ready = self.ready.borrow();
        Err(if ready.open {
            "all connections to the leader are full".to_owned()
        } else {
            ready.why.clone()
        })
    }

    /// Changes of the pool. After each of them there may be a slot.
    pub(crate) fn readiness(&self) -> watch::Receiver<Ready> {
        self.ready.clone()
    }
}

/// Keeps the wanted number of connections open, until dropped.
async fn keep(
    group: Arc<ConnectionGroup>,
    leader: Leader,
    config: Arc<ListenerConfig>,
    reports: Option<watch::Sender<Ready>>,
    suspicion: Option<Suspicion>,
) {
    let suspect = || {
        if let Some(suspicion) = &suspicion {
            suspicion.tell();
        }
    };
    // Owned by this task, so that the connections end with the pool.
    let mut open: JoinSet<Closed> = JoinSet::new();
    let mut pause = INITIAL_BACKOFF;
    let report = |change: &dyn Fn(&mut Ready)| {
        if let Some(reports) = &reports {
            reports.send_modify(|ready| {
                change(ready);
                ready.changes = ready.changes.wrapping_add(1);
            });
        }
    };
    let mut said = String::new();
    loop {
        if group.prune() < group.wanted() {
            match connect_to_any(&leader, &config, &mut said, suspicion.as_ref()).await {
                Ok((connection, driving)) => {
                    said.clear();
                    group.add(connection);
                    open.spawn(driving);
                    pause = INITIAL_BACKOFF;
                    report(&|ready| ready.open = true);
                }
                Err(why) => {
                    suspect();
                    let here = group.prune() > 0;
                    report(&|ready| {
                        ready.open = here;
                        ready.why.clone_from(&why);
                    });
                    // Jitter, so that followers do not reconnect all at once.
                    sleep(pause.mul_f64(jitter(&config))).await;
                    pause = (pause * 2).min(MAX_BACKOFF);
                }
            }
            while open.try_join_next().is_some() {}
            continue;
        }
        tokio::select! {
            () = group.more.notified() => {}
            Some(closed) = open.join_next() => {
                let here = group.prune() > 0;
                if matches!(closed, Ok(Closed::Lost(_) | Closed::Silent(_)) | Err(_)) {
                    suspect();
                }
                let reason = match closed {
                    Ok(why) => {
                        info!(leader = leader.node_id, %why, "connection to the leader ended");
                        why.reason()
                    }
                    Err(why) => {
                        warn!(leader = leader.node_id, %why, "connection to the leader ended");
                        "lost"
                    }
                };
                report(&|ready| {
                    ready.open = here;
                    ready.why = format!("the connection to the leader was {reason}");
                });
            }
        }
    }
}

#[cfg_attr(not(feature = "simulation"), allow(unused_variables))]
fn jitter(config: &ListenerConfig) -> f64 {
    #[cfg(feature = "simulation")]
    if let Some(host) = &config.simulated {
        return host.jitter();
    }
    rand::rng().random_range(0.5..1.0)
}

/// Tries the addresses of the leader in order. The error is for callers. Details are logged, once for each different
/// error: `said` is the last one.
async fn connect_to_any(
    leader: &Leader,
    config: &ListenerConfig,
    said: &mut String,
    suspicion: Option<&Suspicion>,
) -> Result<(Arc<Connection>, impl Future<Output = Closed> + Send + use<>), String> {
    let mut whys = Vec::new();
    for address in &leader.addresses {
        match connect(address, &leader.node_id, config, suspicion).await {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                let text = error.to_string();
                if *said == text {
                    debug!(leader = leader.node_id, address, %error, "cannot connect to the leader (as before)");
                } else {
                    warn!(leader = leader.node_id, address, %error, "cannot connect to the leader");
                    *said = text;
                }
                whys.push(format!("{} at {address}: {}", leader.node_id, error.reason()));
            }
        }
    }
    Err(whys.join("; "))
}
