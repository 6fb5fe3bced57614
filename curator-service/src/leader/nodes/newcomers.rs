//! How many nodes may wait for their approval: whoever has the ticket can make any number of them.

use tokio::sync::{Mutex, MutexGuard};
use tonic::Status;

use curator_proto::common::NodeState;

use crate::state::view::View;
use crate::telemetry;

/// How many nodes may be NEW at a time.
pub(in crate::leader) const MAX_NEW_NODES: usize = 1_024;
/// How large the records of all of them together may be, in bytes. One with all the labels there may be takes 48 KB.
pub(in crate::leader) const MAX_NEW_BYTES: usize = 8 << 20;

/// One node registers at a time, so that all of them are counted.
#[derive(Default)]
pub(in crate::leader) struct Newcomers(Mutex<()>);

impl Newcomers {
    /// The turn to register a node.
    pub(in crate::leader) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// Somebody was refused.
pub(in crate::leader) fn count_refused() {
    metrics::counter!(telemetry::NEWCOMERS_REFUSED).increment(1);
}

/// Refuses one more with a record of this size if there are too many already.
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
