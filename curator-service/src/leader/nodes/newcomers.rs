//! Limits the number of nodes in state NEW: the holder of the ticket can register any number of them.

use tokio::sync::{Mutex, MutexGuard};
use tonic::Status;

use curator_proto::common::NodeState;

use crate::state::view::View;
use crate::telemetry;

/// Maximum number of nodes in state NEW.
pub(in crate::leader) const MAX_NEW_NODES: usize = 1_024;
/// Maximum size of the records of nodes in state NEW, in bytes. A record with the maximum of labels has 48 KB.
pub(in crate::leader) const MAX_NEW_BYTES: usize = 8 << 20;

/// Serializes registrations, so that every node is counted.
#[derive(Default)]
pub(in crate::leader) struct Newcomers(Mutex<()>);

impl Newcomers {
    /// The turn to register a node.
    pub(in crate::leader) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// Counts a refused registration.
pub(in crate::leader) fn count_refused() {
    metrics::counter!(telemetry::NEWCOMERS_REFUSED).increment(1);
}

/// Refuses a registration with a record of this size if the limits are reached.
pub(in crate::leader) fn check(view: &View, bytes: usize) -> Result<(), Status> {
    let new = view.nodes().filter_map(|(_, node)| node.as_ref().ok());
    let new = new.filter(|node| node.state() == NodeState::New);
    let (nodes, all) = new.fold((0, bytes), |(nodes, all), node| (nodes + 1, all + node.stored_bytes()));
    if nodes < MAX_NEW_NODES && all <= MAX_NEW_BYTES {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "too many nodes are waiting for approval: {nodes} (max {MAX_NEW_NODES}, with records of {} MiB in total); \
         approve or delete some of them, or rotate the register ticket if they are unknown",
        MAX_NEW_BYTES >> 20
    )))
}
