//! Jobs for the thread, and their replies, which are held back until the commit.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use crate::clock::Instant;
use crate::memory::model::Model;
use crate::{LeaseId, StoreError};

/// The model, and its leases that are not on disk yet. The history of the model tracks its keys.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) model: Model,
    /// The time of the batch.
    pub(super) now: Instant,
    /// The leases granted or ended since the last commit.
    pub(super) leases: BTreeSet<LeaseId>,
}

/// An operation on the model.
pub(super) type Job = Box<dyn FnOnce(&mut Committed) -> Answer + Send>;

/// Sends the reply, or the error of the commit instead.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>)>;

/// A job, and the receiver of its reply.
pub(super) fn job<T: Send + 'static>(
    act: impl FnOnce(&mut Committed) -> Result<T, StoreError> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (reply, answer) = oneshot::channel();
    let job = move |state: &mut Committed| -> Answer {
        let result = act(state);
        Box::new(move |committed| {
            // The caller may have given up.
            let _ = reply.send(committed.and(result));
        })
    };
    (Box::new(job), answer)
}
