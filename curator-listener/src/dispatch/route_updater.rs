//! Keeps the route up to date with the role.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::call::lifetime::RoleLifetime;
use crate::call::refusal::{Refusal, STOPPING};
use crate::config::ListenerConfig;
use crate::dispatch::decide::named;
use crate::dispatch::routing::{FollowerRoute, LeaderRoute, Route};
use crate::forward::{Pool, Suspicion};
use crate::headers::TermHeader;
use crate::local::InFlight;
use crate::protocol::Negotiated;
use crate::role::{Leader, LeaderTerm, Role, TermId};
use crate::services::{LeaderFailure, Services};
use crate::telemetry;

/// Forwarded calls outlive the role that they were sent under by this time. An answer that the old leader gave in
/// time, and that is still in transit, is then not cut off by a faster observation of the new role.
const LINGER_TIMEOUT: Duration = Duration::from_millis(75);

/// Updates the route when the role changes.
pub(crate) struct RouteUpdater<T> {
    services: Arc<Services<T>>,
    config: Arc<ListenerConfig>,
    /// The runtimes of the workers.
    runtimes: Vec<Handle>,
    route_updates: watch::Sender<Arc<Route>>,
    /// Tasks that end old roles, and tasks of the connections to leaders.
    tasks: JoinSet<()>,
}

impl<T: Clone + Send + Sync + 'static> RouteUpdater<T> {
    pub(crate) fn new(
        services: Arc<Services<T>>,
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
    pub(crate) async fn run(mut self, mut roles: watch::Receiver<Role<T>>, cancel: CancellationToken) {
        // The role that the route was made from; `None` at first, so that the first role always counts.
        let mut known: Option<Role<T>> = None;
        // A term of this instance that has ended never becomes valid again, even if the status still reports it.
        let mut ended: Option<TermId> = None;
        let mut alive = true;
        loop {
            let newest = roles.borrow_and_update().clone();
            let newest = match newest {
                Role::Leader(term) if ended.as_ref() == Some(&term.term) => Role::Undetermined {
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
                Some(Role::Leader(term)) => Some(term),
                _ => None,
            };
            let over = async {
                match term {
                    Some(term) => term.guard.0.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = roles.changed(), if alive => {
                    if changed.is_err() {
                        warn!("the election has ended on this instance: calls cannot be dispatched any more");
                        alive = false;
                    }
                }
                () = over => ended = term.map(|term| term.term.clone()),
                Some(_) = self.tasks.join_next() => {}
            }
        }
        let stopped = Refusal::unavailable(STOPPING);
        end(&self.route_updates.borrow(), &stopped);
        self.route_updates.send_replace(Arc::new(Route::Undetermined {
            reason: STOPPING.into(),
        }));
        self.tasks.shutdown().await;
    }

    /// Replaces the route by one for the new role, and ends the old one.
    fn switch(&mut self, to: &Role<T>, roles: &watch::Receiver<Role<T>>) {
        let old = self.route_updates.borrow().clone();
        let new = Arc::new(match to {
            Role::Undetermined { reason } => Route::Undetermined { reason: reason.clone() },
            Role::Leader(term) => self.leader_route(term),
            Role::Follower(leader) => Route::Follower(self.follower_route(leader, &old)),
        });
        let same_lifetime = match (&*new, &*old) {
            (Route::Follower(new), Route::Follower(old)) => Arc::ptr_eq(&new.lifetime, &old.lifetime),
            _ => false,
        };
        self.route_updates.send_replace(new);
        match &*old {
            Route::Undetermined { .. } | Route::Failed(_) => {}
            Route::Leader(leader) => leader.lifetime.end(Refusal::term_ended().with_leader(leader_of(to))),
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

    fn leader_route(&self, term: &LeaderTerm<T>) -> Route {
        let LeaderTerm { term: id, guard, .. } = term;
        match self.services.leader_service(term) {
            Ok(service) => {
                info!(lock_key = %id.lock_key, lock_revision = id.lock_revision, "leading");
                Route::Leader(LeaderRoute {
                    term: TermHeader::new(id),
                    guard: guard.clone(),
                    service,
                    in_flight: InFlight::new(self.config.drain_limit),
                    lifetime: RoleLifetime::new(Some(guard.clone())),
                })
            }
            Err(error) => {
                error!(
                    lock_key = %id.lock_key,
                    lock_revision = id.lock_revision,
                    %error,
                    source = error.source().map(tracing::field::display),
                    "cannot start the leader's services: this leader answers no calls until its term ends"
                );
                telemetry::leader_services_failed();
                let term = id.clone();
                Route::Failed(LeaderFailure { term, error })
            }
        }
    }

    fn follower_route(&mut self, leader: &Leader, old: &Route) -> FollowerRoute {
        let address = leader.addresses.first();
        if leader.authorizes_forwarded {
            info!(leader = leader.node_id, address, "forwarding to the leader");
        } else {
            warn!(
                leader = leader.node_id,
                address, "the leader does not accept forwarded calls: callers are told to call it directly"
            );
        }
        let lifetime = match old {
            // The same term at other addresses: calls in flight go on, on their connections.
            Route::Follower(old) if old.leader.term == leader.term => old.lifetime.clone(),
            _ => RoleLifetime::new(None),
        };
        let runtimes = if leader.authorizes_forwarded {
            &self.runtimes[..]
        } else {
            &[]
        };
        FollowerRoute {
            leader: leader.clone(),
            term: TermHeader::new(&leader.term),
            protocol: Negotiated::default(),
            pools: runtimes
                .iter()
                .enumerate()
                .map(|(worker, runtime)| {
                    // One connection is enough to watch the leader.
                    let suspected = self.config.leader_suspected.clone().filter(|_| worker == 0);
                    let term = leader.term.clone();
                    let suspicion = suspected.map(|suspected| Suspicion { suspected, term });
                    Pool::start(leader, &self.config, runtime, &mut self.tasks, suspicion)
                })
                .collect(),
            lifetime,
        }
    }
}

fn leader_of<T>(role: &Role<T>) -> Option<&Leader> {
    match role {
        Role::Follower(leader) => Some(leader),
        Role::Undetermined { .. } | Role::Leader(_) => None,
    }
}

/// Why calls end that were forwarded to the previous leader.
fn changed<T>(old: &Route, now: &Role<T>) -> Refusal {
    let before = match old {
        Route::Follower(follower) => format!("the call was forwarded to {}: ", named(&follower.leader)),
        _ => String::new(),
    };
    let after = match now {
        Role::Undetermined { reason } => format!("the leader is not known any more ({reason})"),
        Role::Leader(_) => "this instance is the leader now".to_owned(),
        Role::Follower(leader) => format!("{} is the leader now", named(leader)),
    };
    Refusal::unavailable(format!("{before}{after}; it is not known whether the call took effect"))
        .with_leader(leader_of(now))
}

fn end(route: &Route, why: &Refusal) {
    match route {
        Route::Undetermined { .. } | Route::Failed(_) => {}
        Route::Leader(leader) => leader.lifetime.end(why.clone()),
        Route::Follower(follower) => follower.lifetime.end(why.clone()),
    }
}
