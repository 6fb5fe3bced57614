//! The election, the fenced store and the leader's state on a simulated etcd, in simulated time, with faults drawn from
//! a seed.
//!
//! Several instances run, each a real `Elector` over a real `StoreElection`, with the real `State` in each term.
//! Clients read and write registers through them. A schedule injects faults: partitions (also one-way), lost and late
//! replies, closed watches, compaction, processes that are paused for longer than the TTL or killed and restarted,
//! clocks of different rates, revoked leases, replaced lock keys, and planned ends of terms. In a quarter of the seeds,
//! clients reach the registers through the real listeners, which dispatch and forward over HTTP/2 on a network in
//! memory, with cuts (also one-way), delays and resets. In the other seeds they call directly, which is faster and
//! allows more calls. The invariants are checked every simulated 10 ms (`terms.rs`), and the clients' histories at the
//! end (`history.rs`).
//!
//! A seed is a [`Scenario`], which runs in one thread on a paused clock. With `--cfg tokio_unstable`, which `cargo
//! xtask sim` builds with, tokio's own choices come from the seed too, and a seed runs the same way each time.

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
