//! Where calls for the leader go at the moment, kept up to date with the role.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::config::ListenerConfig;
use crate::decide::{Seen, named};
use crate::forward::{Pool, Ready};
use crate::lead::Running;
use crate::marks::TermMark;
use crate::refusal::Refusal;
use crate::role::{Leader, Role, SharedGuard, TermId};
use crate::scope::Scope;
use crate::services::{LeaderTerm, Services};
use crate::version::Spoken;

/// Forwarded calls outlast the role that they were sent under by this, so that an answer which the old leader gave in time,
/// and which is still under way, is not cut off by the faster news of its end.
const LINGER: Duration = Duration::from_millis(75);

/// Where calls for the leader go.
pub(crate) enum Target {
    /// Nobody knows.
    Unknown { reason: String },
    /// Here.
    Lead(Lead),
    /// To another instance.
    Follow(Follow),
}

/// This instance leads.
pub(crate) struct Lead {
    term: TermMark,
    guard: SharedGuard,
    pub(crate) routes: Routes,
    pub(crate) running: Arc<Running>,
    pub(crate) scope: Arc<Scope>,
}

/// Another instance leads.
pub(crate) struct Follow {
    pub(crate) leader: Leader,
    pub(crate) term: TermMark,
    /// What it is told of calls, and how.
    pub(crate) spoken: Spoken,
    /// One for each shard.
    pools: Vec<Arc<Pool>>,
    pub(crate) scope: Arc<Scope>,
}

impl Follow {
    /// The connections of a shard.
    pub(crate) fn pool(&self, shard: usize) -> Option<&Arc<Pool>> {
        self.pools.get(shard)
    }

    /// Whether there are connections. All shards dial the same address: one speaks for all.
    pub(crate) fn readiness(&self) -> Option<watch::Receiver<Ready>> {
        self.pools.first().map(|pool| pool.readiness())
    }

    /// Waits until all shards are connected; false if that will not come, or nothing is forwarded to this leader.
    pub(crate) async fn connected(&self) -> bool {
        for pool in &self.pools {
            if pool.readiness().wait_for(|ready| ready.open).await.is_err() {
                return false;
            }
        }
        !self.pools.is_empty()
    }
}

impl Target {
    /// As the rules want to see it.
    pub(crate) fn seen(&self) -> Seen<'_> {
        match self {
            Self::Unknown { reason } => Seen::Unknown { reason },
            Self::Lead(lead) => Seen::Lead {
                term: &lead.term,
                valid: lead.guard.0.is_valid(),
                draining: lead.running.is_draining(),
            },
            Self::Follow(follow) => Seen::Follow { leader: &follow.leader },
        }
    }
}

/// Keeps the target up to date.
pub(crate) struct Tracker {
    services: Arc<Services>,
    config: Arc<ListenerConfig>,
    /// Of the shards.
    runtimes: Vec<Handle>,
    targets: watch::Sender<Arc<Target>>,
    /// The terms' ends, and the connections to leaders.
    tasks: JoinSet<()>,
}

impl Tracker {
    pub(crate) fn new(
        services: Arc<Services>,
        config: Arc<ListenerConfig>,
        runtimes: Vec<Handle>,
        targets: watch::Sender<Arc<Target>>,
    ) -> Self {
        Self {
            services,
            config,
            runtimes,
            targets,
            tasks: JoinSet::new(),
        }
    }

    /// Follows the role until cancelled; then all that is under way ends.
    pub(crate) async fn run(mut self, mut roles: watch::Receiver<Role>, cancel: CancellationToken) {
        // The role that the target is made from; none at first, so that the first one always counts.
        let mut known: Option<Role> = None;
        // A term of ours that has ended does not come back, whatever the status still says.
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
        end(&self.targets.borrow(), &stopped);
        self.targets.send_replace(Arc::new(Target::Unknown {
            reason: "this instance is stopping".into(),
        }));
        self.tasks.shutdown().await;
    }

    fn switch(&mut self, to: &Role, roles: &watch::Receiver<Role>) {
        let old = self.targets.borrow().clone();
        let target = match (to, &*old) {
            (Role::Undetermined { reason }, _) => Target::Unknown { reason: reason.clone() },
            (Role::Local { term, guard }, _) => {
                info!(lock_key = term.lock_key, lock_revision = term.lock_revision, "leading");
                let routes = self.services.leader_routes(&LeaderTerm {
                    term: term.clone(),
                    guard: guard.clone(),
                });
                Target::Lead(Lead {
                    term: TermMark::new(term),
                    guard: guard.clone(),
                    routes,
                    running: Running::new(self.config.drain_limit),
                    scope: Scope::new(Some(guard.clone())),
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
                let scope = match old {
                    // The same term elsewhere: calls under way go on, on the connections that they are on.
                    Target::Follow(old) if old.leader.term == leader.term => old.scope.clone(),
                    _ => Scope::new(None),
                };
                Target::Follow(Follow {
                    leader: leader.clone(),
                    term: TermMark::new(&leader.term),
                    spoken: Spoken::default(),
                    pools: self
                        .runtimes
                        .iter()
                        .filter(|_| leader.authorizes_forwarded)
                        .map(|runtime| Pool::start(leader, &self.config, runtime, &mut self.tasks))
                        .collect(),
                    scope,
                })
            }
        };
        let target = Arc::new(target);
        let same_scope = matches!((&*target, &*old), (Target::Follow(new), Target::Follow(old)) if Arc::ptr_eq(&new.scope, &old.scope));
        self.targets.send_replace(target);
        match &*old {
            Target::Unknown { .. } => {}
            Target::Lead(lead) => lead.scope.end(Refusal::term_ended().with_leader(leader_of(to))),
            Target::Follow(_) => {
                let roles = roles.clone();
                self.tasks.spawn(async move {
                    sleep(LINGER).await;
                    if !same_scope {
                        end(&old, &changed(&old, &roles.borrow()));
                    }
                    // The connections go with the old target.
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

/// Why calls end that were forwarded to a leader of before.
fn changed(old: &Target, now: &Role) -> Refusal {
    let before = match old {
        Target::Follow(follow) => format!("the call was forwarded to {}, ", named(&follow.leader)),
        _ => String::new(),
    };
    let after = match now {
        Role::Undetermined { reason } => format!("and who leads is not known any more: {reason}"),
        Role::Local { .. } => "and this instance leads now".to_owned(),
        Role::Remote(leader) => format!("and {} leads now", named(leader)),
    };
    Refusal::unavailable(format!("{before}{after}; whether it took effect is not known")).with_leader(leader_of(now))
}

fn end(target: &Target, why: &Refusal) {
    match target {
        Target::Unknown { .. } => {}
        Target::Lead(lead) => lead.scope.end(why.clone()),
        Target::Follow(follow) => follow.scope.end(why.clone()),
    }
}
