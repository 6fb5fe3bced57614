//! One gRPC socket that answers in every role of a leader-elected service.
//!
//! The crate knows gRPC, and of the election only what [`StatusStream`] says. Today it serves the local services, those that
//! every instance answers by itself in every role; calls for the leader are refused with `UNAVAILABLE` and the name of the
//! leader, if it is known.
//!
//! ```
//! use curator_listener::{Listener, Role, StaticStatus};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let status = StaticStatus::new(Role::Undetermined { reason: "no election here".into() });
//! let listener = Listener::bind(["127.0.0.1:0".parse()?], status).await?;
//! println!("listening on {:?}", listener.addresses());
//! let (_reporter, health) = tonic_health::server::health_reporter();
//! let local = tonic::service::Routes::new(health);
//!
//! let cancel = CancellationToken::new();
//! let serving = tokio::spawn(listener.run(local, cancel.clone()));
//! cancel.cancel();
//! serving.await??;
//! # Ok(())
//! # }
//! ```

mod role;
mod server;

pub use role::{Leader, Role, SharedGuard, StaticStatus, StatusStream, TermGuard, TermId};
#[cfg(any(test, feature = "mock"))]
pub use role::{MockStatusStream, MockTermGuard};
pub use server::{ListenError, Listener};
