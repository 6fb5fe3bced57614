//! Hands over leadership without failing calls, if there is enough time.

use std::time::Duration;

use curator_election::{ElectionStatus, ElectorHandle, LeaderValue, Term};
use curator_listener::ListenerHandle;
use tokio::time::timeout;
use tracing::info;

/// Hands over leadership without failing calls: drains the calls that are running and queues new ones, steps down, then
/// waits up to `limit` for the next leader, to which the queued calls are forwarded.
///
/// Returns immediately on a follower, or if another term than `only` is the current one. Cancellation: the
/// listener accepts no new calls in this term afterwards either.
pub async fn hand_over<V: LeaderValue>(
    listener: &ListenerHandle,
    elector: &ElectorHandle<V>,
    limit: Duration,
    only: Option<&Term>,
) {
    let leads = match &*elector.status().borrow() {
        ElectionStatus::Leader(term) => only.is_none_or(|only| term == only),
        ElectionStatus::Undetermined(_) | ElectionStatus::Follower(_) => false,
    };
    if !leads {
        return;
    }
    if let Some(drained) = listener.drain().await {
        info!(
            unanswered = drained.unanswered,
            streams = drained.streams,
            "stepping down: accepting no new calls; remaining streams end with the term"
        );
    }
    let handing_over = async {
        // When the elector has stopped, its term has ended as well.
        if elector.step_down().await.is_ok() {
            listener.reaches_leader().await;
        }
    };
    if timeout(limit, handing_over).await.is_err() {
        info!(
            ?limit,
            "no new leader was observed before the timeout; queued calls are refused"
        );
    }
}
