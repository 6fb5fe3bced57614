//! The handle to a listener.

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::progress::WorkerProbe;
use crate::config::ListenerConfig;
use crate::dispatch::routing::Route;
use crate::local::Drained;
use crate::services::LeaderFailure;

/// A handle to a listener, before and while it runs.
#[derive(Clone)]
pub struct ListenerHandle {
    pub(super) config: Arc<ListenerConfig>,
    pub(super) route_updates: watch::Receiver<Arc<Route>>,
    pub(super) serving: watch::Receiver<bool>,
    pub(super) unready: CancellationToken,
    pub(super) probes: watch::Receiver<Vec<WorkerProbe>>,
}

impl ListenerHandle {
    /// Whether a call to this instance reaches a leader, and its changes: what `grpc.health.v1` reports.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serving.clone()
    }

    /// Completes when each worker thread has run a new task or has made progress with its connections, so that none
    /// of them is blocked. Never completes while one is blocked, before the listener [runs](crate::Listener::run), or
    /// after it has ended. Cancellation safe.
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
            let reachable = async {
                match &*route {
                    Route::Undetermined { .. } | Route::Failed(_) => {}
                    Route::Leader(leader) if leader.in_flight.is_draining() => {}
                    Route::Leader(_) => return,
                    Route::Follower(follower) => {
                        if follower.connected().await {
                            return;
                        }
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = reachable => return,
                changed = route_updates.changed() => if changed.is_err() {
                    // The listener has ended.
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Completes when this instance leads and the leader's services of its term could not be made; at once if that is
    /// so already. Never completes after the listener has ended. Cancellation safe.
    ///
    /// The caller must end the term: until then, calls wait for another leader.
    pub async fn leader_failed(&self) -> LeaderFailure {
        let mut route_updates = self.route_updates.clone();
        loop {
            if let Route::Failed(failure) = &**route_updates.borrow_and_update() {
                return failure.clone();
            }
            if route_updates.changed().await.is_err() {
                std::future::pending::<()>().await;
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
            Route::Leader(leader) => Some(leader.in_flight.drain(self.config.drain_limit).await),
            Route::Follower(_) | Route::Undetermined { .. } | Route::Failed(_) => None,
        }
    }
}
