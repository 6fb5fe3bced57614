//! A model of etcd, in memory, with faults from a seed: for tests and simulations.
//!
//! [`model`] is etcd's semantics as pure, synchronous code. [`MemoryCluster`] puts it on tokio's clock and hands out clients,
//! each of which can be cut off, delayed, or made to lose requests and replies. Under a paused, single-threaded runtime
//! equal seeds give equal runs.

mod cluster;
mod faults;
pub mod model;

pub use cluster::{MemoryClient, MemoryCluster};
pub use faults::{Faults, Link};
