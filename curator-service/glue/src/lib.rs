//! The election and the listener together: the listener's role follows the election's status, a follower learns the
//! leader's addresses, and a leader that shuts down hands over without a failed call.
//!
//! ```no_run
//! use std::time::Duration;
//! use curator_election::{Elector, PlainText};
//! use curator_glue::{Begun, LeaderEndpoint, Roles, hand_over, publish_roles};
//! use curator_listener::{Listener, Services, Role};
//! use tokio::sync::watch;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example(elector: Elector<PlainText>, listener: Listener, services: Services) {
//! let (handle, listening, cancel) = (elector.handle(), listener.handle(), CancellationToken::new());
//! let roles = watch::Sender::new(Role::Undetermined { reason: "starting".into() });
//! let following = Roles(roles.subscribe());
//! // Each candidate's value is its address.
//! let endpoint = |value: &PlainText| LeaderEndpoint::new(&value.0, [value.0.clone()]);
//! let no_address = |_| std::future::pending();
//! let begin = |_: &curator_election::Term| Ok(Begun::new(()));
//! let publishing = tokio::spawn(publish_roles(handle.status(), roles, endpoint, no_address, begin));
//! let electing = tokio::spawn(elector.run(cancel.child_token()));
//! let serving = tokio::spawn(listener.run(following, services, cancel.clone()));
//!
//! // At shutdown.
//! listening.unready();
//! hand_over(&listening, &handle, Duration::from_secs(2), None).await;
//! cancel.cancel();
//! # drop((publishing, electing, serving));
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

mod hand_over;
mod reason;
mod role;

pub use hand_over::hand_over;
pub use reason::public_reason;
pub use role::{Begun, LeaderEndpoint, Roles, leader_suspected, publish_roles, role};
