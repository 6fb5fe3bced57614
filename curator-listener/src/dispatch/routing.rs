//! The route for calls of the leader's services: to this instance, to another instance, or to none yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::call::lifetime::RoleLifetime;
use crate::call::refusal::Refusal;
use crate::config::ListenerConfig;
use crate::dispatch::decide::{RouteView, named};
use crate::forward::{Pool, Ready};
use crate::headers::TermHeader;
use crate::local::InFlight;
use crate::protocol::Negotiated;
use crate::role::{Leader, Role, SharedGuard, TermId};
use crate::services::{LeaderTerm, Services};

/// Forwarded calls outlive the role that they were sent under by this time. An answer that the old leader gave in
/// time, and that is still in transit, is then not cut off by a faster observation of the new role.
const LINGER_TIMEOUT: Duration = Duration::from_millis(75);

/// Where calls for the leader go.
pub(crate) enum Route {
    /// The leader is not known.
    Undetermined { reason: String },
    /// To this instance.
    Leader(LeaderRoute),
    /// To another instance.
    Follower(FollowerRoute),
}

/// This instance is the leader.
pub(crate) struct LeaderRoute {
    term: TermHeader,
    guard: SharedGuard,
    pub(crate) routes: Routes,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) lifetime: Arc<RoleLifetime>,
}

/// Another instance is the leader.
pub(crate) struct FollowerRoute {
    pub(crate) leader: Leader,
    pub(crate) term: TermHeader,
    /// The forwarding protocol version negotiated with the leader.
    pub(crate) protocol: Negotiated,
    /// One pool for each worker.
    pools: Vec<Arc<Pool>>,
    pub(crate) lifetime: Arc<RoleLifetime>,
}

impl FollowerRoute {
    /// The connections of a worker to the leader.
    pub(crate) fn pool(&self, worker: usize) -> Option<&Arc<Pool>> {
        self.pools.get(worker)
    }

    /// Whether there are connections to the leader. All workers dial the same address, so the first pool speaks for
    /// all.
    pub(crate) fn readiness(&self) -> Option<watch::Receiver<Ready>> {
        self.pools.first().map(|pool| pool.readiness())
    }

    /// Waits until all workers are connected. `false` if the pools are gone or nothing is forwarded to this leader.
    pub(crate) async fn connected(&self) -> bool {
        for pool in &self.pools {
            if pool.readiness().wait_for(|ready| ready.open).await.is_err() {
                return false;
            }
        }
        !self.pools.is_empty()
    }
}

impl Route {
    /// The route as the rules need it.
    pub(crate) fn view(&self) -> RouteView<'_> {
        match self {
            Self::Undetermined { reason } => RouteView::Undetermined { reason },
            Self::Leader(lead) => RouteView::Leader {
                term: &lead.term,
                valid: lead.guard.0.is_valid(),
                draining: lead.in_flight.is_draining(),
            },
            Self::Follower(follow) => RouteView::Follower { leader: &follow.leader },
        }
    }
}

/// Updates the route when the role changes.
pub(crate) struct RouteUpdater {
    services: Arc<Services>,
    config: Arc<ListenerConfig>,
    /// The runtimes of the workers.
    runtimes: Vec<Handle>,
    route_updates: watch::Sender<Arc<Route>>,
    /// Tasks that end old roles, and tasks of the connections to leaders.
    tasks: JoinSet<()>,
}

impl RouteUpdater {
    pub(crate) fn new(
        services: Arc<Services>,
        config: Arc<ListenerConfig>,
        runtimes: Vec<Handle>,
        route_updates: watch::Sender<Arc<Route>>,
    ) -> Self {
        Self {
            services,
            config,
            runtimes,
            route_updates,
            tasks: JoinSet::new(),
        }
    }

    /// Follows the role until cancelled. Then all calls in flight end.
    pub(crate) async fn run(mut self, mut roles: watch::Receiver<Role>, cancel: CancellationToken) {
        // The role that the route was made from; `None` at first, so that the first role always counts.
        let mut known: Option<Role> = None;
        // A term of this instance that has ended never becomes valid again, even if the status still reports it.
        let mut ended: Option<TermId> = None;
        let mut alive = true;
        loop {
            let newest = roles.borrow_and_update().clone();
            let newest = match newest {
                Role::Local { term, .. } if ended.as_ref() == Some(&term) => Role::Undetermined {
                    reason: "the term of this leader has ended".into(),
                },
                _ if !alive => Role::Undetermined {
                    reason: "the election has ended on this instance".into(),
                },
                role => role,
            };
            if known.as_ref() != Some(&newest) {
                self.switch(&newest, &roles);
                known = Some(newest);
            }
            let term = match &known {
                Some(Role::Local { term, guard }) => Some((term.clone(), guard.clone())),
                _ => None,
            };
            let over = async {
                match &term {
                    Some((_, guard)) => guard.0.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = roles.changed(), if alive => {
                    if changed.is_err() {
                        warn!("the status of the election has ended: no call can be dispatched any more");
                        alive = false;
                    }
                }
                () = over => ended = term.map(|(term, _)| term),
                Some(_) = self.tasks.join_next() => {}
            }
        }
        let stopped = Refusal::unavailable("this instance is stopping");
        end(&self.route_updates.borrow(), &stopped);
        self.route_updates.send_replace(Arc::new(Route::Undetermined {
            reason: "this instance is stopping".into(),
        }));
        self.tasks.shutdown().await;
    }

    fn switch(&mut self, to: &Role, roles: &watch::Receiver<Role>) {
        let old = self.route_updates.borrow().clone();
        let route = match (to, &*old) {
            (Role::Undetermined { reason }, _) => Route::Undetermined { reason: reason.clone() },
            (Role::Local { term, guard }, _) => {
                info!(lock_key = term.lock_key, lock_revision = term.lock_revision, "leading");
                let routes = self.services.leader_routes(&LeaderTerm {
                    term: term.clone(),
                    guard: guard.clone(),
                });
                Route::Leader(LeaderRoute {
                    term: TermHeader::new(term),
                    guard: guard.clone(),
                    routes,
                    in_flight: InFlight::new(self.config.drain_limit),
                    lifetime: RoleLifetime::new(Some(guard.clone())),
                })
            }
            (Role::Remote(leader), old) => {
                let address = leader.addresses.first();
                if leader.authorizes_forwarded {
                    info!(leader = leader.node_id, address, "forwarding to the leader");
                } else {
                    warn!(
                        leader = leader.node_id,
                        address, "the leader does not take forwarded calls: callers are told to call it directly"
                    );
                }
                let lifetime = match old {
                    // The same term at other addresses: calls in flight go on, on their connections.
                    Route::Follower(old) if old.leader.term == leader.term => old.lifetime.clone(),
                    _ => RoleLifetime::new(None),
                };
                Route::Follower(FollowerRoute {
                    leader: leader.clone(),
                    term: TermHeader::new(&leader.term),
                    protocol: Negotiated::default(),
                    pools: self
                        .runtimes
                        .iter()
                        .filter(|_| leader.authorizes_forwarded)
                        .map(|runtime| Pool::start(leader, &self.config, runtime, &mut self.tasks))
                        .collect(),
                    lifetime,
                })
            }
        };
        let route = Arc::new(route);
        let same_lifetime = matches!((&*route, &*old), (Route::Follower(new), Route::Follower(old)) if Arc::ptr_eq(&new.lifetime, &old.lifetime));
        self.route_updates.send_replace(route);
        match &*old {
            Route::Undetermined { .. } => {}
            Route::Leader(lead) => lead.lifetime.end(Refusal::term_ended().with_leader(leader_of(to))),
            Route::Follower(_) => {
                let roles = roles.clone();
                self.tasks.spawn(async move {
                    sleep(LINGER_TIMEOUT).await;
                    if !same_lifetime {
                        end(&old, &changed(&old, &roles.borrow()));
                    }
                    // Dropping the old route closes its connections.
                });
            }
        }
    }
}

fn leader_of(role: &Role) -> Option<&Leader> {
    match role {
        Role::Remote(leader) => Some(leader),
        Role::Undetermined { .. } | Role::Local { .. } => None,
    }
}

/// Why calls end that were forwarded to the previous leader.
fn changed(old: &Route, now: &Role) -> Refusal {
    let before = match old {
        Route::Follower(follow) => format!("the call was forwarded to {}, ", named(&follow.leader)),
        _ => String::new(),
    };
    let after = match now {
        Role::Undetermined { reason } => format!("and who leads is not known any more: {reason}"),
        Role::Local { .. } => "and this instance leads now".to_owned(),
        Role::Remote(leader) => format!("and {} leads now", named(leader)),
    };
    Refusal::unavailable(format!("{before}{after}; whether it took effect is not known")).with_leader(leader_of(now))
}

fn end(route: &Route, why: &Refusal) {
    match route {
        Route::Undetermined { .. } => {}
        Route::Leader(lead) => lead.lifetime.end(why.clone()),
        Route::Follower(follow) => follow.lifetime.end(why.clone()),
    }
}
