//! The listener on real sockets: instances in one process, roles set by the tests, and faulty leaders.
//!
//! Every wait is for an event and has a timeout.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "times are compared with bounds that the documentation states"
)]

mod abuse;
mod deadlines;
mod embedding;
mod failing_services;
mod fidelity;
mod fixture;
mod handover;
mod limits;
mod never_twice;
mod raw;
mod roles;
mod server;
mod services;
mod shared;
mod skew;
mod stalls;
mod strangers;
mod suspended;
mod threads;
