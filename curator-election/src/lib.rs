//! Leader election over etcd with fenced terms.
//!
//! Candidates queue in etcd with the key layout of Go's `concurrency.Election` and `etcdctl elect`, so that all of them
//! can take part in one election. Each instance is leader, follower, or undetermined ([`ElectionStatus`]). A leader
//! holds a [`Term`]: it expires on the local clock, even without network, and its guard fences every access to state.
//!
//! ```
//! use std::sync::Arc;
//! use curator_election::{ElectionBuilder, PlainText};
//! # #[cfg(feature = "testing")]
//! use curator_election::memory::MemoryCluster;
//!
//! # #[cfg(not(feature = "testing"))] fn main() {}
//! # #[cfg(feature = "testing")]
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // In production: an `EtcdStore`.
//!     let store = Arc::new(MemoryCluster::new(1).client(0));
//!     let election = ElectionBuilder::new(store, "/scheduler/leader").ttl(std::time::Duration::from_secs(5));
//!
//!     let elector = election.build(&PlainText("node-1".into()))?;
//!     let handle = elector.handle();
//!     let cancel = tokio_util::sync::CancellationToken::new();
//!     let running = tokio::spawn(elector.run(cancel.clone()));
//!
//!     let term = handle.leading().await?;
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
//! - `mock`: an election that a test drives (`FakeElection`), a `mockall` mock of [`ElectionBackend`], terms for unit
//!   tests, and a clock that follows tokio's paused time (`clock::TokioClock`).
//! - `etcd-client-0_21`: the guard of a term for one's own etcd client, and a store of existing clients.
//!
//! # The type system as a guard
//!
//! A term ends once: its owner cannot be copied.
//!
//! ```compile_fail,E0599
//! # fn owner() -> curator_election::TermOwner { unimplemented!() }
//! let (one, other) = (owner().clone(), owner());
//! ```
//!
//! A key without a lease would outlive its candidate: there is no lease 0.
//!
//! ```compile_fail,E0423
//! let lease = curator_election::store::LeaseId(0);
//! ```
//!
//! An elector runs once:
//!
//! ```compile_fail,E0382
//! # async fn twice(elector: curator_election::Elector<curator_election::PlainText>) {
//! # let cancel = tokio_util::sync::CancellationToken::new();
//! elector.run(cancel.clone()).await;
//! elector.run(cancel).await;
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
pub mod backoff;
mod builder;
mod challenge;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod elector;
#[doc(hidden)]
pub mod failpoint;
#[cfg(any(test, feature = "mock"))]
mod fake;
pub mod fence;
pub mod lease_deadline;
mod liveness;
mod observer;
mod process;
pub mod settings;
mod status;
pub mod telemetry;
mod term;
mod transfer;
mod value;

/// The macro for implementations of the traits here: their methods are `async`.
pub use async_trait::async_trait;
/// The crate `curator-store`, re-exported.
pub use curator_store as store;
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
pub use builder::ElectionBuilder;
pub use challenge::{ChallengeRecord, ChallengeState, DEFAULT_FAILOVER_LIMIT, MIN_FAILOVER_LIMIT, RecordError};
pub use elector::{
    Elector, ElectorConfig, ElectorGone, ElectorHandle, ProclaimError, Proclaimed, StepDown, WhileLeading,
};
#[cfg(any(test, feature = "mock"))]
pub use fake::FakeElection;
pub use fence::{Change, Fenced, FencedError, Outcome, Read, Written};
pub use liveness::LivenessProbe;
pub use observer::{LeaderObserver, Observed};
pub use process::Process;
pub use settings::ElectorError;
pub use status::{ElectionStatus, LeaderInfo, Reason};
pub use term::{NotValid, Term, TermEnded, TermOwner, Validity, WentBack};
pub use transfer::{TransferError, transfer_leadership};
pub use value::{DecodeError, LeaderValue, PlainText};
