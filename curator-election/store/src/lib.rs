//! The part of etcd's v3 API that an election and fenced state need, as one object-safe trait.
//!
//! Algorithms use [`Store`]; etcd ([`etcd`]), a durable store in one file ([`embedded`]) and a model of etcd in memory
//! ([`memory`]) implement it. The semantics are etcd's: the revision increases with each transaction that changes
//! something; a transaction is atomic; a watch event carries the revision of its change; the keys of an expired lease
//! are deleted. [`conformance`] tests an implementation.
//!
//! ```
//! # #[cfg(not(feature = "testing"))] fn main() {}
//! # #[cfg(feature = "testing")]
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), curator_store::StoreError> {
//!     use curator_store::memory::MemoryCluster;
//!     use curator_store::{Keys, Op, Range, Store, Txn};
//!
//!     // In production: an `EtcdStore`.
//!     let cluster = MemoryCluster::new(1);
//!     let store = cluster.client(0);
//!     let put = Op::Put { key: "/greeting".into(), value: "hello".into(), lease: None };
//!     let written = store.txn(Txn::default().then(vec![put])).await?;
//!     let read = store.range(Range::all(Keys::one("/greeting"))).await?;
//!     assert_eq!(read.kvs[0].mod_revision, written.revision);
//!     Ok(())
//! }
//! ```
//!
//! # Features
//! - `etcd` (default): the store on etcd.
//! - `embedded`: a durable store in one file, for a single-process service.
//! - `testing`: a model of etcd with faults from a seed, a clock for tests, and the conformance suite.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(any(test, feature = "testing", feature = "embedded"))]
pub mod memory;
pub mod namespace;
pub mod pages;
mod store;
#[cfg(feature = "etcd")]
pub mod telemetry;
mod ttl;
mod txn;
mod types;

/// The macro for implementations of the traits here: their methods are `async`.
pub use async_trait::async_trait;
pub use error::{RefusalKind, StoreError};
pub use store::Store;
pub use ttl::MAX_LEASE_TTL;
pub use txn::{Compare, Op, OpResult, Ordering, Range, RangeResult, Sort, Target, Txn, TxnResult};
pub use types::{Event, KeyValue, Keys, Lease, LeaseId, Revision, TimeToLive, WatchBatch, WatchStream};
