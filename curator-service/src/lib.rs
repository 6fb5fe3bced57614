//! The Curator: a leader-elected service that manages a cluster.
//!
//! One instance runs beside every etcd member. [`Service`] wires the election (`curator-election`) to what the instances
//! serve, and watches over the tasks of both: none of them ends unnoticed.
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

mod authorize;
mod bootstrap;
mod candidacy;
mod certified;
mod client;
mod complaint;
mod config;
mod consensus;
mod credentials;
mod fenced;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod history;
mod identity;
mod instance;
mod leader;
mod leader_address;
mod leadership;
mod local;
mod log_filter;
#[cfg(feature = "measure")]
pub mod measure;
mod observe;
mod pulse;
mod pushback;
mod readiness;
mod report;
mod service;
mod shutdown;
#[cfg(all(feature = "simulation", debug_assertions))]
pub mod simulation;
mod state;
mod supervise;
mod transfer;
mod validate;
mod wiring;

pub use authorize::{Authenticator, Caller, Member as CallingMember, Nobody};
#[cfg(any(test, feature = "test-identity"))]
pub use authorize::{TEST_CALLER, TestIdentity};
pub use bootstrap::{Bootstrap, BootstrapError, Bootstrapped, bootstrap};
pub use certified::{CertifiedAs, NotCertified, certified_as};
pub use client::{ClientCredentials, ClientError, Connector, Trust};
pub use config::{CURATOR_PORT, Config, ConfigError, LeaderServices, StateLimits};
pub use consensus::{
    Consensus, ConsensusError, ConsensusStatus, EmbeddedConsensus, Endpoint, EndpointStatus, EtcdConsensus,
    FixedConsensus, FixedMembership, LeaseWitness, Member, Membership, MembershipError, only_consensus_member,
    open_embedded, open_existing_embedded,
};
pub use credentials::files::{
    CredentialsDirectory, certificate_pem, names as credential_names, read_certificate, read_private_key,
};
pub use credentials::state::{ForeignState, check_state};
pub use credentials::verifier::NO_PROOF;
pub use credentials::{Credentials, CredentialsError, CredentialsWatch};
pub use fenced::{Change, Fenced, FencedError, Outcome, Read, Written};
pub use identity::{KeyError, PrivateKey, node_id};
pub use local::CuratorLocalService;
pub use log_filter::LogFilter;
pub use observe::{OBSERVE_PORT, Observe, meters};
pub use pushback::{come_again, patiently};
pub use service::{LeaderStatus, Liveness, Service, ServiceError};
pub use transfer::{Import, TransferError, export, import};

/// The version of the Curator, with the commit that it was built from if that is known.
pub const VERSION: &str = env!("CURATOR_VERSION");

/// The commit that the Curator was built from; empty if that is not known.
pub const COMMIT: &str = env!("CURATOR_COMMIT");

/// The time of day: for what people read, and for the validity of certificates. No term or deadline is decided by it.
#[allow(clippy::disallowed_methods, reason = "certificates have no other clock")]
#[must_use]
pub fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
