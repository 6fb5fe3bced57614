//! A model of etcd in memory, with faults from a seed: for tests and simulations.
//!
//! [`model`] is etcd's semantics as pure, synchronous code. `MemoryCluster` runs it on tokio's clock and creates
//! clients, each of which can be cut off, delayed, or made to lose requests and replies. Under a paused,
//! single-threaded runtime equal seeds give equal runs.
//!
//! With the feature `embedded` alone there is only the model: `EmbeddedStore` keeps its state in it.

#[cfg(any(test, feature = "testing"))]
mod cluster;
#[cfg(any(test, feature = "testing"))]
mod faults;
pub mod model;
#[cfg(any(test, feature = "testing"))]
mod pause;

#[cfg(any(test, feature = "testing"))]
pub use cluster::{MemoryClient, MemoryCluster};
#[cfg(any(test, feature = "testing"))]
pub use faults::{Faults, Link};
#[cfg(any(test, feature = "testing"))]
pub use pause::{PauseSwitch, Paused};
