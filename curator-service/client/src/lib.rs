//! A client of the Curator: finds the leader or any other instance, follows the leader when it changes, and retries
//! calls that provably did not run.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use curator_client::{Client, CredentialFiles, Security};
//! use curator_proto::management_api::GetClusterInfoRequest;
//! use curator_proto::management_api::management_client::ManagementClient;
//! use tokio::time::Instant;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let owner = CredentialFiles::new("ca.pem").with_certificate("owner.pem", "owner-key.pem").load()?;
//! let client = Client::new(["192.0.2.1:7835", "192.0.2.2:7835"], Security::Tls(owner))?;
//!
//! let deadline = Instant::now() + Duration::from_secs(10);
//! let info = client
//!     .call(deadline, async |attempt| {
//!         let mut management = ManagementClient::new(attempt.channel());
//!         management.get_cluster_info(attempt.request(GetClusterInfoRequest {})).await
//!     })
//!     .await?;
//! println!("{:?}", info.into_inner());
//! # Ok(())
//! # }
//! ```
//!
//! A call is sent again only if it provably did not run: the connection was never made, an instance at its limits
//! refused the call and said when to retry (`grpc-retry-pushback-ms`), or HTTP/2 says that the call was not processed
//! ([`NotRun`]). Any other error is returned at once, because the call may have taken effect; the caller knows what a
//! second call would do.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod client;
mod credential_files;
mod endpoints;
mod error;
mod instance;
mod leader_changes;
mod retry;

pub use client::{Attempt, Client};
pub use credential_files::{CredentialFiles, LoadError};
pub use endpoints::{Security, is_loopback};
pub use error::{CallError, FindError, SetupError};
pub use instance::{Instance, LeaderInfo, reported_leader};
pub use leader_changes::LeaderChanges;
pub use retry::{NotRun, connection_error};

pub use curator_identity::{
    ClientCredentials, CredentialsError, PrivateKey, Trust, read_certificate, read_private_key, retry_delay,
    with_retries,
};
