//! The route for calls of the leader's services: to this instance, to another instance, or to none yet.

use std::sync::Arc;

use tokio::sync::watch;

use crate::call::lifetime::RoleLifetime;
use crate::dispatch::decide::RouteView;
use crate::forward::{Pool, Ready};
use crate::headers::TermHeader;
use crate::local::InFlight;
use crate::protocol::Negotiated;
use crate::role::{Leader, SharedGuard};
use crate::services::{CallService, LeaderFailure};

/// Where calls for the leader go.
pub(crate) enum Route {
    /// The leader is not known.
    Undetermined { reason: String },
    /// To this instance.
    Leader(LeaderRoute),
    /// To this instance, which cannot serve: the leader's services could not be made.
    Failed(LeaderFailure),
    /// To another instance.
    Follower(FollowerRoute),
}

/// This instance is the leader.
pub(crate) struct LeaderRoute {
    pub(crate) term: TermHeader,
    pub(crate) guard: SharedGuard,
    pub(crate) service: CallService,
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
    pub(crate) pools: Vec<Arc<Pool>>,
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
            Self::Failed(failure) => RouteView::Failed {
                reason: failure.error.reason(),
            },
            Self::Leader(leader) => RouteView::Leader {
                term: &leader.term,
                valid: leader.guard.0.is_valid(),
                suspended: leader.guard.0.is_suspended(),
                draining: leader.in_flight.is_draining(),
            },
            Self::Follower(follower) => RouteView::Follower {
                leader: &follower.leader,
            },
        }
    }
}
