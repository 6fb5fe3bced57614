//! What callers have the thread do, and the answers that it holds back until the disk has what they tell.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use crate::clock::Instant;
use crate::memory::model::Model;
use crate::{LeaseId, StoreError};

/// The model, and what the disk does not have yet of its leases. Its keys are told by its history.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) model: Model,
    /// The time of the batch.
    pub(super) now: Instant,
    /// The leases granted or ended since the last commit.
    pub(super) leases: BTreeSet<LeaseId>,
}

/// Something to be done with the model.
pub(super) type Job = Box<dyn FnOnce(&mut Committed) -> Answer + Send>;

/// Sends the answer, or in its place why the batch was not committed.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>)>;

/// A job, and where its answer will be.
pub(super) fn job<T: Send + 'static>(
    act: impl FnOnce(&mut Committed) -> Result<T, StoreError> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (reply, answer) = oneshot::channel();
    let job = move |ledger: &mut Committed| -> Answer {
        let result = act(ledger);
        Box::new(move |committed| {
            // The caller may have given up.
            let _ = reply.send(committed.and(result));
        })
    };
    (Box::new(job), answer)
}
