//! Forwarding a call to the leader: headers, body and trailers are passed on unchanged and not inspected.
//!
//! It uses `h2` directly. That takes no task and no queue for a call, returns a request that was not sent, and
//! reports for a failed one whether the leader may have started to process it.

mod attempt;
mod connection;
mod dial;
mod last_heard;
mod pool;
pub(crate) mod replay_body;
mod reset_queue;
mod response_body;
mod retry;
mod upload;

pub(crate) use attempt::{Attempt, ForwardRequest, Outcome};
pub(crate) use connection::{Slot, Suspicion};
pub(crate) use pool::{Pool, Ready};
pub(crate) use response_body::ForwardedBody;
