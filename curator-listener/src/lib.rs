//! One gRPC socket that answers in every role of a leader-elected service.
//!
//! A client may call any instance at any time. The instance that leads answers by the leader's services; any other forwards
//! the call to it as it is, whatever its method and kind; and while nobody leads, the call waits, within its own deadline and
//! a bound. Services that are local are answered by every instance itself.
//!
//! The crate knows gRPC, and of the election only what [`StatusStream`] says. It gives these promises:
//!
//! * A call runs at most once. It is sent again only if nothing of it can have run.
//! * No call is begun, and none is answered, by a leader whose term has ended, even if the election hangs.
//! * When a role ends, its calls end with `UNAVAILABLE`, the reason in words and, if known, who leads now: as metadata
//!   `curator-leader-id` and `curator-leader-address`. When a leader steps down as planned, those that it is in_flight are
//!   answered first.
//! * No call outlasts its deadline; whatever waits or is buffered is bounded by [`ListenerConfig`].
//!
//! ```
//! use curator_listener::{Listener, ListenerConfig, Role, Services, StaticStatus};
//! use tokio_util::sync::CancellationToken;
//! use tonic::service::Routes;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Made once a term, when this instance begins to lead: here go your own tonic services.
//! let services = Services::new(|term| {
//!     println!("leading in the term of revision {}", term.term.lock_revision);
//!     Routes::default()
//! });
//! // Here goes your election.
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
//! Metadata that callers may set: `curator-no-forward`, with any value, asks an instance that does not lead to refuse and say
//! who does, rather than forward. All other names that begin with `curator-` are between the instances.
//!
//! Each call has a `tracing` span of level DEBUG and target `curator::call` with the ids of its trace, which it takes from
//! W3C `traceparent` and passes on. While nobody listens to it, that costs nothing, and the header passes as it came.

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

pub use caller::{CallerAddress, CallerCertificates, Standing};
pub use config::ListenerConfig;
pub use local::Drained;
pub use role::{Leader, Role, SharedGuard, StaticStatus, StatusStream, TermGuard, TermId};
#[cfg(any(test, feature = "mock"))]
pub use role::{MockStatusStream, MockTermGuard};
pub use server::{DEFAULT_ADDRESS, ListenError, Listener, ListenerHandle};
pub use services::{DescriptorError, LeaderTerm, Services};
pub use tls::{Forwarders, Tls, ToLeader};
