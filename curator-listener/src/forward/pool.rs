//! The connections to one leader: warm before the first call, replaced when they end, more of them when they are full.

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
use crate::forward::connection::{Closed, Connection, Slot, connect};
use crate::role::Leader;

/// The first pause after a failed attempt to connect; it doubles up to the longest.
const INITIAL_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// However many calls there are, no more connections of a kind than this.
const MAX_CONNECTIONS: usize = 64;

/// And of strangers, who have little to ask.
const MAX_STRANGER_CONNECTIONS: usize = 8;

/// Parts of what a connection takes: everything ...
const WHOLE: usize = 1;
/// ... and what those of another kind may have of it.
const SPILL_DIVISOR: usize = 4;

/// The connections to one leader. The tasks that keep them end with it.
pub(crate) struct Pool {
    unary: Arc<ConnectionGroup>,
    streams: Arc<ConnectionGroup>,
    /// For callers that the cluster does not know, if they can be told: whatever they do, they do to each other.
    strangers: Arc<ConnectionGroup>,
    ready: watch::Receiver<Ready>,
    _stop: DropGuard,
}

/// Whether calls can be sent.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// A connection for unary calls is open.
    pub(crate) open: bool,
    /// Goes up with each connection that opens or ends.
    changes: u64,
    /// Why not, if not: callers are told, who may be strangers.
    why: String,
}

/// Connections for one kind of calls.
struct ConnectionGroup {
    connections: RwLock<Vec<Arc<Connection>>>,
    /// As many calls are taken by each.
    calls: usize,
    /// With so many on each, another is opened.
    full: usize,
    /// How many there should be at least, and at most.
    least: usize,
    most: usize,
    more: Notify,
}

impl ConnectionGroup {
    fn new(config: &ListenerConfig, least: usize, most: usize) -> Arc<Self> {
        let calls = usize::try_from(config.calls_to_leader()).unwrap_or(usize::MAX).max(1);
        Arc::new(Self {
            connections: RwLock::default(),
            calls,
            full: (calls / 4 * 3).max(1),
            least: least.clamp(1, most),
            most,
            more: Notify::new(),
        })
    }

    /// A slot on the connection with the fewest calls, if they are less than that part of as many as it takes.
    fn slot(&self, pool: &Arc<Pool>, part: usize) -> Option<Slot> {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let mut emptiest: Option<((bool, usize), &Arc<Connection>)> = None;
        for connection in connections.iter() {
            let Some(open) = connection.open() else { continue };
            let rank = (connection.is_worn(), open);
            if emptiest.is_none_or(|(least, _)| rank < least) {
                emptiest = Some((rank, connection));
            }
        }
        let ((worn, open), connection) = emptiest?;
        if worn || open >= self.full {
            self.more.notify_one();
        }
        // When it is full, another connection is on its way.
        (open < self.calls.div_ceil(part)).then(|| connection.slot(pool.clone()))
    }

    fn add(&self, connection: Arc<Connection>) {
        self.connections
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }

    /// Forgets those that have ended, and those that are worn if there are others; says how many are left. The calls on a worn
    /// one keep it until the last of them has ended.
    fn prune(&self) -> usize {
        let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.open().is_some());
        if connections.iter().any(|connection| !connection.is_worn()) {
            connections.retain(|connection| !connection.is_worn());
        }
        connections.len()
    }

    /// How many there should be at this moment.
    fn wanted(&self) -> usize {
        let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
        let all_full = connections
            .iter()
            .all(|c| c.is_worn() || c.open().is_some_and(|open| open >= self.full));
        let more = usize::from(all_full && !connections.is_empty());
        (connections.len() + more).clamp(self.least, self.most)
    }
}

impl Pool {
    /// Begins to connect to the leader. `tasks` owns what keeps the connections, which are on that runtime.
    pub(crate) fn start(
        leader: &Leader,
        config: &Arc<ListenerConfig>,
        runtime: &Handle,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let unary = ConnectionGroup::new(config, config.leader_connections, MAX_CONNECTIONS);
        let streams = ConnectionGroup::new(config, 1, MAX_CONNECTIONS);
        let strangers = ConnectionGroup::new(config, 1, MAX_STRANGER_CONNECTIONS);
        let why = match leader.addresses.is_empty() {
            true => format!("{} leads and does not say where it can be limit_alerts", leader.node_id),
            false => "no connection to the leader yet".to_owned(),
        };
        let (ready, readiness) = watch::channel(Ready {
            open: false,
            changes: 0,
            why,
        });
        let stop = CancellationToken::new();
        if !leader.addresses.is_empty() {
            let mut groups = vec![(&unary, Some(ready)), (&streams, None)];
            if config.tls.is_some() {
                groups.push((&strangers, None));
            }
            for (group, reports) in groups {
                let keeping = keep(group.clone(), leader.clone(), config.clone(), reports);
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

    /// A slot for one call, or why there is none at this moment.
    pub(crate) fn slot(self: &Arc<Self>, kind: Kind, standing: Standing) -> Result<Slot, String> {
        let slot = match (standing, kind) {
            (Standing::Stranger, _) => self.strangers.slot(self, WHOLE),
            // Rather with the other kind than not at all.
            (_, Kind::Unary) => self.unary.slot(self, WHOLE).or_else(|| self.streams.slot(self, WHOLE)),
            // A storm of them leaves the others their slots.
            (_, Kind::Stream) => self
                .streams
                .slot(self, WHOLE)
                .or_else(|| self.unary.slot(self, SPILL_DIVISOR)),
        };
        if let Some(slot) = slot {
            return Ok(slot);
        }
        let ready = self.ready.borrow();
        Err(match ready.open {
            true => "all connections to the leader are full".to_owned(),
            false => ready.why.clone(),
        })
    }

    /// Its changes: there may be a slot after each.
    pub(crate) fn readiness(&self) -> watch::Receiver<Ready> {
        self.ready.clone()
    }
}

/// Keeps as many connections open as are wanted, until dropped.
async fn keep(
    group: Arc<ConnectionGroup>,
    leader: Leader,
    config: Arc<ListenerConfig>,
    reports: Option<watch::Sender<Ready>>,
) {
    // Owned here, so that they end with the pool.
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
            match connect_to_any(&leader, &config, &mut said).await {
                Ok((connection, driving)) => {
                    said.clear();
                    group.add(connection);
                    open.spawn(driving);
                    pause = INITIAL_BACKOFF;
                    report(&|ready| ready.open = true);
                }
                Err(why) => {
                    let here = group.prune() > 0;
                    report(&|ready| {
                        ready.open = here;
                        ready.why.clone_from(&why);
                    });
                    // Jitter, so that not all followers knock at the same moment.
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
                let told = match closed {
                    Ok(why) => {
                        info!(leader = leader.node_id, %why, "connection to the leader ended");
                        why.told()
                    }
                    Err(why) => {
                        warn!(leader = leader.node_id, %why, "connection to the leader ended");
                        "lost"
                    }
                };
                report(&|ready| {
                    ready.open = here;
                    ready.why = format!("the connection to the leader was {told}");
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

/// Tries the leader's addresses in their order. What went wrong is for callers to read; more of it is in the log, once for each
/// trouble: `said` is the last one.
async fn connect_to_any(
    leader: &Leader,
    config: &ListenerConfig,
    said: &mut String,
) -> Result<(Arc<Connection>, impl Future<Output = Closed> + Send + use<>), String> {
    let mut whys = Vec::new();
    for address in &leader.addresses {
        match connect(address, &leader.node_id, config).await {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                let text = error.to_string();
                if *said == text {
                    debug!(leader = leader.node_id, address, %error, "still no connection to the leader");
                } else {
                    warn!(leader = leader.node_id, address, %error, "no connection to the leader");
                    *said = text;
                }
                whys.push(format!("{} at {address}: {}", leader.node_id, error.told()));
            }
        }
    }
    Err(whys.join("; "))
}
