//! The election, the fenced store and the leader's state on the model of etcd, in simulated time, with faults from a
//! seed.
//!
//! Several instances, each a real `Elector` over a real `StoreElection`, and for each term the real `State`; clients
//! that read and write registers through them; and a schedule of faults: partitions (also one-way), lost and late
//! replies, closed watches, compaction, processes that are stopped for longer than the TTL or killed and started again,
//! clocks of different rates, leases revoked and lock keys replaced behind everybody's back, planned ends of terms. In
//! a quarter of the seeds clients get to the registers through the real listeners, which dispatch and forward over
//! HTTP/2 on a network in memory, with cuts (also one-way), delays and resets between them; in the others directly,
//! which is faster and calls more. What must hold is looked at each simulated 10 ms (`terms.rs`), and what the clients
//! saw at the end (`history.rs`).
//!
//! A seed is a [`Scenario`], which runs in one thread on a paused clock. With `--cfg tokio_unstable`, which `cargo
//! xtask sim` builds with, tokio's own choices come from the seed as well, and a seed runs the same way each time.

mod bug;
mod client;
mod history;
mod node;
mod registers;
mod scenario;
mod search;
mod shrink;
mod terms;
mod world;

pub use bug::Bug;
pub use scenario::Scenario;
pub use search::{Found, Search, Totals, search};
pub use shrink::shrink;
pub use world::{Outcome, Violation, simulate};
