//! One gRPC socket that answers in every role of a leader-elected service.
//!
//! A client may call any instance at any time. The leader answers with its services. Any other instance forwards the
//! call to the leader unchanged, whatever its method and kind. While there is no leader, the call waits: within its
//! own deadline, a maximum time, and a bounded queue. Every instance answers local services itself.
//!
//! The crate knows gRPC. Of the election it only knows what [`StatusStream`] reports. It guarantees:
//!
//! * A call runs at most once. It is sent again only if it provably did not run.
//! * A leader whose term has ended starts no call and answers none, even if the election hangs.
//! * When a role ends, its calls end with `UNAVAILABLE` and the reason. The metadata `curator-leader-id` and
//!   `curator-leader-address` name the new leader if it is known. A leader that steps down as planned first answers its
//!   calls in flight.
//! * No call outlives its deadline. [`ListenerConfig`] bounds everything that waits or is buffered.
//!
//! ```
//! use curator_listener::{Listener, ListenerConfig, Role, Services, StaticStatus};
//! use tokio_util::sync::CancellationToken;
//! use tonic::service::Routes;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Called at the beginning of each term of this instance: return your own tonic services here.
//! let services = Services::new(|term| {
//!     println!("leading in the term of revision {}", term.term.lock_revision);
//!     Routes::default()
//! });
//! // Use your election here.
//! let status = StaticStatus::new(Role::Undetermined { reason: "no election here".into() });
//!
//! let listener = Listener::bind(["127.0.0.1:0".parse()?], ListenerConfig::default())?;
//! println!("listening on {:?}", listener.addresses());
//! let cancel = CancellationToken::new();
//! let serving = tokio::spawn(listener.run(status, services, cancel.clone()));
//! cancel.cancel();
//! serving.await??;
//! # Ok(())
//! # }
//! ```
//!
//! Callers may set the metadata `curator-no-forward`, with any value. An instance that is not the leader then refuses
//! the call and names the leader instead of forwarding it. All other names that begin with `curator-` are reserved
//! for the instances.
//!
//! Each call has a `tracing` span of level DEBUG and target `curator::call` with the ids of its trace, which it takes
//! from W3C `traceparent` and passes on. If no subscriber is interested, that costs nothing, and the header is passed
//! on unchanged.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod call;
mod caller;
mod config;
mod dispatch;
#[doc(hidden)]
pub mod failpoint;
mod forward;
mod headers;
mod health;
mod inbound;
mod limit_alerts;
mod local;
mod memory;
mod protocol;
mod role;
mod server;
mod services;
pub mod telemetry;
#[cfg(feature = "simulation")]
pub mod testing;
mod tls;
mod trace_context;
mod transport;

/// The macro for implementations of the traits here: their methods are `async`.
pub use async_trait::async_trait;

pub use caller::{CallerAddress, CallerCertificates, Standing};
pub use config::{LeaderSuspected, ListenerConfig};
pub use local::Drained;
pub use role::{Leader, LeaderTerm, LockKey, Role, SharedGuard, StaticStatus, StatusStream, TermGuard, TermId};
#[cfg(any(test, feature = "mock"))]
pub use role::{MockStatusStream, MockTermGuard};
pub use server::{DEFAULT_ADDRESS, IncomingConnection, ListenError, Listener, ListenerBuilder, ListenerHandle};
pub use services::{CallService, DescriptorError, LeaderFailure, LeaderServicesError, Services, ServicesError};
pub use tls::{Forwarders, Tls, ToLeader, host_name};
