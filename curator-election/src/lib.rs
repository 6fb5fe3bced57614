//! Leader election over etcd with fenced terms.
//!
//! Candidates queue in etcd with the key layout of Go's `concurrency.Election` and `etcdctl elect`, so that all of them
//! can take part in one election. Each instance is leader, follower, or undetermined ([`ElectionStatus`]). A leader
//! holds a [`Term`]: it expires on the local clock, even without network, and its guard fences every access to state.
//!
//! ```
//! use std::sync::Arc;
//! use curator_election::{Elector, ElectorConfig, ElectionStatus, PlainText};
//! # #[cfg(feature = "testing")]
//! use curator_election::memory::MemoryCluster;
//!
//! # #[cfg(not(feature = "testing"))] fn main() {}
//! # #[cfg(feature = "testing")]
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // In production: an `EtcdStore`.
//!     let store = Arc::new(MemoryCluster::new(1).client(0));
//!     let ttl = std::time::Duration::from_secs(5);
//!     let backend = Arc::new(curator_election::StoreElection::new(store, "/scheduler/leader", ttl / 3));
//!
//!     let elector = Elector::new(backend, &PlainText("node-1".into()), ElectorConfig { ttl, ..Default::default() })?;
//!     let mut status = elector.handle().status();
//!     let cancel = tokio_util::sync::CancellationToken::new();
//!     let running = tokio::spawn(elector.run(cancel.clone()));
//!
//!     let leading = status.wait_for(|status| matches!(status, ElectionStatus::Leader(_))).await?.clone();
//!     let term = leading.valid_term().expect("just won");
//!     println!("leading under {:?} since revision {}", term.lock_key(), term.lock_revision());
//!
//!     cancel.cancel();
//!     running.await?;
//!     assert!(!term.is_valid());
//!     Ok(())
//! }
//! ```
//!
//! # Features
//! - `etcd` (default): the store on etcd.
//! - `embedded`: a durable store in one file, for a single-process service.
//! - `testing`: a model of etcd with faults from a seed, a clock for tests, and the conformance suite.
//! - `sabotage`: enables the failpoints, deliberate bugs that a simulation must find. Without debug assertions there
//!   are none.
//! - `proto`: the value of the Curator's own election as a [`LeaderValue`]. Without it and `etcd` the crate builds
//!   without tonic.
//! - `mock`: a `mockall` mock of [`ElectionBackend`], and terms for unit tests.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
pub mod backoff;
mod challenge;
mod elector;
#[doc(hidden)]
pub mod failpoint;
pub mod lease_deadline;
mod liveness;
mod process;
mod status;
pub mod telemetry;
mod term;
mod transfer;
mod value;

/// The macro for implementations of the traits here: their methods are `async`.
pub use async_trait::async_trait;
/// The crate `curator-store`, re-exported.
pub use curator_store as store;
#[cfg(any(test, feature = "testing"))]
pub use curator_store::conformance;
#[cfg(feature = "embedded")]
pub use curator_store::embedded;
#[cfg(feature = "etcd")]
pub use curator_store::etcd;
#[cfg(any(test, feature = "testing", feature = "embedded"))]
pub use curator_store::memory;
pub use curator_store::{clock, namespace, pages};

#[cfg(any(test, feature = "mock"))]
pub use backend::MockElectionBackend;
pub use backend::{CampaignError, ElectionBackend, StoreElection};
pub use challenge::{ChallengeRecord, ChallengeState, DEFAULT_FAILOVER_LIMIT, MIN_FAILOVER_LIMIT, RecordError};
pub use elector::{Elector, ElectorConfig, ElectorError, ElectorGone, ElectorHandle, StepDown};
pub use liveness::LivenessProbe;
pub use process::Process;
pub use status::{ElectionStatus, LeaderInfo, Reason};
pub use term::{Term, TermEnded, TermOwner, Validity, WentBack};
pub use transfer::{TransferError, transfer_leadership};
pub use value::{DecodeError, LeaderValue, PlainText};
