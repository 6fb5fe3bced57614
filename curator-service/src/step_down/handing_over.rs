//! Hands over leadership without failing calls, if there is enough time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curator_election::store::Revision;
use curator_election::{ElectorHandle, Term};
use curator_listener::ListenerHandle;
use curator_proto::private::LeaderElectionValue;

/// The elector's handle, if the elector runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct ElectorSlot(Arc<Mutex<Option<ElectorHandle<LeaderElectionValue>>>>);

impl ElectorSlot {
    pub(crate) fn set(&self, handle: Option<ElectorHandle<LeaderElectionValue>>) {
        // No code panics while it holds the lock.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    /// Tells the elector that the leader with this lock revision seems to be dead.
    pub(crate) fn suspect(&self, leader: Revision) {
        if let Some(elector) = self.get() {
            elector.suspect(leader);
        }
    }

    fn get(&self) -> Option<ElectorHandle<LeaderElectionValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Hands over leadership without failing calls: drains the calls that are running and queues new ones, steps down, then
/// waits up to `limit` for the next leader, to which the queued calls are forwarded.
///
/// Returns immediately on a follower, or if another term than `only` is the current one.
pub(crate) async fn hand_over(listener: &ListenerHandle, elector: &ElectorSlot, limit: Duration, only: Option<&Term>) {
    let Some(elector) = elector.get() else { return };
    curator_glue::hand_over(listener, &elector, limit, only).await;
}
