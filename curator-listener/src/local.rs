//! Answering calls on this instance: by the leader's services within the term, or by local services.

mod body;
mod in_flight;
mod serve;

pub(crate) use body::LeaderBody;
pub use in_flight::Drained;
pub(crate) use in_flight::InFlight;
pub(crate) use serve::{serve, serve_local};
