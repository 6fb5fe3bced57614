//! How an instance goes: without a failed call, if it is given the time.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use curator_election::{ElectionStatus, ElectorHandle};
use curator_listener::ListenerHandle;
use curator_proto::private::LeaderElectionValue;
use tokio::time::timeout;
use tracing::info;

use crate::service::LeaderStatus;

/// The elector's handle, once there is one.
pub(crate) type ElectorSlot = Arc<OnceLock<ElectorHandle<LeaderElectionValue>>>;

/// Gives up the leadership, if this instance has it, so that no call fails: first those that it is running are answered, and
/// new ones kept; then it steps down; and then it waits, at most for `limit`, until it knows the next leader, which the kept
/// ones are forwarded to.
///
/// Returns at once on a follower.
pub(crate) async fn hand_over(listener: &ListenerHandle, elector: &ElectorSlot, limit: Duration) {
    let Some(elector) = elector.get() else { return };
    let mut status = elector.status();
    let Some(before) = lock_revision(&status.borrow()) else {
        return;
    };
    if let Some(drained) = listener.drain().await {
        info!(
            unanswered = drained.unanswered,
            streams = drained.streams,
            "stepping down: takes no new calls; streams that are left end with the term"
        );
    }
    let handing_over = async {
        if elector.step_down().await.is_err() {
            // Its end is the end of the term as well.
            return;
        }
        let next = status.wait_for(|status| match status {
            ElectionStatus::Follower(_) => true,
            // Nobody else was there.
            ElectionStatus::Leader(term) => term.lock_revision() != before,
            ElectionStatus::Undetermined(_) => false,
        });
        let _ = next.await;
    };
    if timeout(limit, handing_over).await.is_err() {
        info!(
            ?limit,
            "no next leader is known in time; calls that wait for it are refused"
        );
    }
}

fn lock_revision(status: &LeaderStatus) -> Option<curator_election::store::Revision> {
    match status {
        ElectionStatus::Leader(term) => Some(term.lock_revision()),
        ElectionStatus::Follower(_) | ElectionStatus::Undetermined(_) => None,
    }
}
