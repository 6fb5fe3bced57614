//! How an instance goes, or gives up its leadership: without a failed call, if it is given the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curator_election::store::Revision;
use curator_election::{ElectionStatus, ElectorHandle};
use curator_listener::ListenerHandle;
use curator_proto::private::LeaderElectionValue;
use tokio::time::timeout;
use tracing::info;

/// The elector's handle, while there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ElectorSlot(Arc<Mutex<Option<ElectorHandle<LeaderElectionValue>>>>);

impl ElectorSlot {
    pub(crate) fn set(&self, handle: Option<ElectorHandle<LeaderElectionValue>>) {
        // Nothing that holds the lock can panic half-way.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    fn get(&self) -> Option<ElectorHandle<LeaderElectionValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Gives up the leadership, if this instance has it, so that no call fails: first those that it is running are answered, and
/// new ones kept; then it steps down; and then it waits, at most for `limit`, until it knows the next leader, which the kept
/// ones are forwarded to.
///
/// Returns at once on a follower, and if the term is not the one with `revision`, where one is given.
pub(crate) async fn hand_over(
    listener: &ListenerHandle,
    elector: &ElectorSlot,
    limit: Duration,
    revision: Option<Revision>,
) {
    let Some(elector) = elector.get() else { return };
    let leads = match &*elector.status().borrow() {
        ElectionStatus::Leader(term) => revision.is_none_or(|revision| term.lock_revision() == revision),
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
        // An elector that has ended has ended the term as well.
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
