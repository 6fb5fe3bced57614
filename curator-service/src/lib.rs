//! The Curator: a leader-elected service that manages a cluster.
//!
//! One instance runs beside every etcd member. [`Service`] connects the election (`curator-election`) to the services
//! that an instance serves. It supervises the tasks of both: if a task ends unexpectedly, the instance ends.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use curator_service::{Config, EtcdConsensus, Service};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let consensus = EtcdConsensus::new(&["http://127.0.0.1:2379"], "namespaced:curator".parse()?)?;
//! let mut config = Config::new("metropolis-000102030405060708090a0b0c0d0e0f", Arc::new(consensus));
//! config.leader_ttl = Duration::from_secs(5);
//!
//! let service = Service::new(config)?;
//! let mut status = service.status();
//! let cancel = tokio_util::sync::CancellationToken::new();
//! let running = tokio::spawn(service.run(cancel.clone()));
//! status.changed().await?;
//! cancel.cancel();
//! running.await??;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

mod audit;
mod auth;
mod complaint;
mod config;
mod consensus;
mod failpoint;
mod instance;
mod leader;
mod log_filter;
mod state;
mod status;
mod status_page;
mod step_down;
pub mod telemetry;
#[cfg(any(test, fuzzing, feature = "measure", feature = "simulation"))]
pub mod testing;
mod validate;

/// The macro for implementations of the traits here: their methods are `async`.
pub use async_trait::async_trait;
pub use auth::{Authenticator, Caller, Member as CallingMember, RejectAll};
#[cfg(any(test, feature = "test-identity"))]
pub use auth::{TEST_CALLER, TestIdentity};
pub use config::{Config, ConfigError, StateLimits};
pub use consensus::{
    Consensus, ConsensusError, ConsensusStatus, EmbeddedConsensus, Endpoint, EndpointStatus, EtcdConsensus,
    FixedConsensus, FixedMembership, LeaseObserver, Member, Membership, MembershipError, RunningError, export_running,
    only_consensus_member, open_embedded, open_existing_embedded,
};
pub use curator_election::fence::{Change, Fenced, FencedError, Outcome, Read, Written};
/// Node ids, keys, certificates and TLS: `curator-identity`, re-exported for users of this crate alone.
pub use curator_identity::{
    CURATOR_PORT, CertificateSubject, ClientCredentials, ClientError, Connector, Credentials, CredentialsDirectory,
    CredentialsError, CredentialsWatch, KeyError, NO_PROOF, PrivateKey, Trust, VerifyError, certificate_pem,
    credential_names, node_id, read_certificate, read_private_key, replace_certificate, retry_delay,
    verify_certificate, wall_clock, with_retries,
};
/// Why the leader's services of a term could not be made, for the services of an embedder.
pub use curator_listener::LeaderServicesError;
pub use curator_version::{COMMIT, VERSION};
pub use instance::certificates::state::{ForeignState, check_state, check_whole};
pub use instance::local_api::CuratorLocalService;
pub use instance::service::{Liveness, Service, ServiceError};
pub use leader::added_services::{AddServiceError, LeaderServices, TermContext};
pub use log_filter::LogFilter;
pub use state::bootstrap::{Bootstrap, BootstrapError, Bootstrapped, bootstrap, bootstrapped};
pub use state::export::{About, Archive, Import, TransferError, Unfinished, export, import};
pub use state::term_state::{InvalidStateName, StateChange, StateEntry, TermState};
pub use status::LeaderStatus;
pub use status_page::{OBSERVE_PORT, Observe};
