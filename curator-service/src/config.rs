//! What an instance is told at its start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use curator_election::lease_deadline::effective_ttl;
use curator_listener::{LeaderTerm, ListenerConfig};
use tonic::service::Routes;

use crate::auth::Authenticator;
use crate::consensus::Consensus;
use crate::log_filter::LogFilter;
pub use crate::state::limits::StateLimits;
use crate::status_page::Observe;
use curator_identity::{CURATOR_PORT, CredentialsWatch};

/// The configuration of one instance.
#[derive(Clone)]
pub struct Config {
    /// The id of the node that the instance runs on: one instance per id.
    pub node_id: String,
    /// Where the state is kept.
    pub consensus: Arc<dyn Consensus>,
    /// The prefix of the election's keys, without a slash at its end.
    pub election_prefix: String,
    /// The TTL of the leader's lease: whole seconds of it, or ten seconds if that is none.
    pub leader_ttl: Duration,
    /// Where to listen: one address at least.
    pub listen: Vec<SocketAddr>,
    /// Where other instances and clients reach this one; `None` for the first address it listens on.
    pub advertise: Option<String>,
    /// How long a call may wait for a leader, within its own deadline; `None` for the TTL and five seconds, which outlasts the
    /// change after a leader was lost.
    pub hold_cap: Option<Duration>,
    /// How long the instance may be unable to serve (a thread that is blocked, a leader whose reads do not come back) before it
    /// gives up leading, or standing for election, until it can; `None` for the TTL and at least five seconds.
    pub stuck_after: Option<Duration>,
    /// How large the cluster's state may become. The same on all instances.
    pub state_limits: StateLimits,
    /// How many calls may wait for a leader at a time.
    pub hold_limit: usize,
    /// How many connections may be open; any more are refused, unless there are some that have made no call: those make room.
    pub max_connections: usize,
    /// How many of them may be of one peer, an IPv4 address or a /64 of IPv6; `None` for a quarter, and no limit for loopback.
    pub max_connections_per_peer: Option<usize>,
    /// A connection takes no calls any more once it is so old, so that clients spread over the instances again; `None` for any age.
    pub max_connection_age: Option<Duration>,
    /// How long an instance that is told to stop may take to hand over and to end its calls.
    pub grace: Duration,
    /// Threads that serve connections; 0 for the caller's runtime.
    pub threads: usize,
    /// The node's certificate and key: with them all connections are TLS; `None` for none, and then only on loopback.
    pub credentials: Option<CredentialsWatch>,
    /// How callers are recognized; `None` for by their certificates, if there are credentials, and else not at all.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Whether the instance reports its own node, as long as it has credentials: its heartbeat, and where it is unless somebody else says
    /// that who knows more of the node. For a node that has no agent of its own.
    pub report_node: bool,
    /// Where the instance is looked at; `None` for nowhere.
    pub observe: Option<Observe>,
    /// What is logged, which users may change; `None` if that is not to be changed.
    pub log_filter: Option<Arc<dyn LogFilter>>,
    /// What the leader serves beside the Curator's own services; called once a term, when it begins.
    pub leader_services: LeaderServices,
    /// Describes the leader's services, beside the Curator's own: encoded `FileDescriptorSet`s, for reflection and health.
    pub leader_descriptors: Vec<&'static [u8]>,
}

/// Adds to what the leader serves in a term. What it returns is dropped when the term ends.
pub type LeaderServices = Arc<dyn Fn(&LeaderTerm, Routes) -> Routes + Send + Sync>;

/// A configuration that cannot work, and what would.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The node id cannot be part of a key.
    #[error("{id:?} is no node id: it must not be empty nor contain a slash or white space")]
    NodeId {
        /// What was given.
        id: String,
    },
    /// The prefix does not name a place for the election's keys.
    #[error(
        "{prefix:?} is no election prefix: it must start with a slash, and neither end with one nor contain an empty part, \
         for example /leader"
    )]
    ElectionPrefix {
        /// What was given.
        prefix: String,
    },
    /// Without TLS only this host may reach the listener.
    #[error(
        "{listen} is not a loopback address: without TLS only those can be listened on, for example 127.0.0.1:7835"
    )]
    ListenWithoutTls {
        /// What was given.
        listen: SocketAddr,
    },
    /// The certificate is another node's.
    #[error(
        "this instance is to be {id}, and its certificate is that of {certified}: leave the node id out, or bring the right one"
    )]
    OtherNode {
        /// The node id that was given.
        id: String,
        /// That of the certificate.
        certified: String,
    },
    /// Other instances are to reach this address.
    #[error("{address:?} is no address to reach this instance at: give host:port, for example 127.0.0.1:7835")]
    Advertise {
        /// What was given.
        address: String,
    },
    /// Nobody can reach it at all addresses.
    #[error(
        "{listen} is every address of this host, and others cannot dial that: say with --advertise at which host:port they reach this \
         instance, for example 10.0.0.1:{}", listen.port()
    )]
    NoAdvertise {
        /// What it listens on.
        listen: SocketAddr,
    },
    /// The elector refuses its part.
    #[error(transparent)]
    Elector(#[from] curator_election::ElectorError),
}

impl Config {
    /// The configuration of the instance on `node_id`, with defaults for all the rest: prefix `/leader`, a TTL of ten
    /// seconds, listening on port 7835 of the IPv4 loopback, with a thread for each core.
    pub fn new(node_id: impl Into<String>, consensus: Arc<dyn Consensus>) -> Self {
        Self {
            node_id: node_id.into(),
            consensus,
            election_prefix: "/leader".into(),
            leader_ttl: Duration::ZERO,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], CURATOR_PORT))],
            advertise: None,
            hold_cap: None,
            stuck_after: None,
            state_limits: StateLimits::default(),
            hold_limit: ListenerConfig::default().hold_limit,
            max_connections: ListenerConfig::default().max_connections,
            max_connections_per_peer: None,
            max_connection_age: None,
            grace: Duration::from_secs(5),
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            credentials: None,
            report_node: false,
            authenticator: None,
            observe: None,
            log_filter: None,
            leader_services: Arc::new(|_, routes| routes),
            leader_descriptors: Vec::new(),
        }
    }

    /// The TTL that is asked for.
    #[must_use]
    pub const fn effective_ttl(&self) -> Duration {
        effective_ttl(self.leader_ttl)
    }

    /// How long the instance may be unable to serve before it gives up leading.
    #[must_use]
    pub fn effective_stuck_after(&self) -> Duration {
        let by_itself = self.effective_ttl().max(Duration::from_secs(5));
        self.stuck_after.unwrap_or(by_itself).max(Duration::from_millis(100))
    }

    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// The first value that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.node_id.is_empty()
            || self
                .node_id
                .contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
        {
            return Err(ConfigError::NodeId {
                id: self.node_id.clone(),
            });
        }
        let parts = self.election_prefix.strip_prefix('/').unwrap_or_default();
        if parts.split('/').any(str::is_empty) {
            return Err(ConfigError::ElectionPrefix {
                prefix: self.election_prefix.clone(),
            });
        }
        if self.credentials.is_none()
            && let Some(listen) = self.listen.iter().find(|listen| !listen.ip().is_loopback())
        {
            return Err(ConfigError::ListenWithoutTls { listen: *listen });
        }
        if let Some(credentials) = &self.credentials
            && credentials.newest().node_id() != self.node_id
        {
            return Err(ConfigError::OtherNode {
                id: self.node_id.clone(),
                certified: credentials.newest().node_id().to_owned(),
            });
        }
        Self::check_reachable(self.listen.first().copied(), self.advertise.as_deref())?;
        if let Some(address) = &self.advertise
            && !is_host_and_port(address)
        {
            return Err(ConfigError::Advertise {
                address: address.clone(),
            });
        }
        Ok(())
    }
}

impl Config {
    /// Checks that others can reach an instance which listens there first, and advertises that unless it is told what to.
    ///
    /// # Errors
    /// It would advertise every address of its host.
    pub fn check_reachable(listen: Option<SocketAddr>, advertise: Option<&str>) -> Result<(), ConfigError> {
        match (listen, advertise) {
            (Some(listen), None) if listen.ip().is_unspecified() => Err(ConfigError::NoAdvertise { listen }),
            _ => Ok(()),
        }
    }
}

/// `host:port`, with a port that can be reached; an IPv6 address stands in brackets.
fn is_host_and_port(address: &str) -> bool {
    if let Ok(socket) = address.parse::<SocketAddr>() {
        return socket.port() != 0 && !socket.ip().is_unspecified();
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let port_is_good = port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_is_good = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
        // Digits and dots alone were meant as an address, and are not a good one.
        && host.chars().any(|c| c.is_ascii_alphabetic());
    port_is_good && host_is_good
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::FixedConsensus;

    fn config() -> Config {
        Config::new("node-1", Arc::new(FixedConsensus::not_running("for a test")))
    }

    #[test]
    fn the_defaults_are_good() {
        config().validate().expect("good");
        assert_eq!(config().effective_ttl(), Duration::from_secs(10));
    }

    #[test]
    fn node_ids_that_cannot_be_keys_are_refused() {
        for id in ["", "a/b", "a b", "a\nb"] {
            let config = Config {
                node_id: id.into(),
                ..config()
            };
            assert!(matches!(config.validate(), Err(ConfigError::NodeId { .. })), "{id:?}");
        }
    }

    #[test]
    fn prefixes_name_a_place() {
        for prefix in ["", "/", "leader", "/leader/", "/a//b", "//a"] {
            let config = Config {
                election_prefix: prefix.into(),
                ..config()
            };
            assert!(
                matches!(config.validate(), Err(ConfigError::ElectionPrefix { .. })),
                "{prefix:?}"
            );
        }
        for prefix in ["/leader", "/kubernetes/reconciler/leader"] {
            Config {
                election_prefix: prefix.into(),
                ..config()
            }
            .validate()
            .expect("good");
        }
    }

    #[test]
    fn only_loopback_without_tls() {
        for listen in ["0.0.0.0:7835", "[::]:7835", "192.0.2.1:7835"] {
            let config = Config {
                listen: vec!["127.0.0.1:0".parse().unwrap(), listen.parse().unwrap()],
                ..config()
            };
            assert!(
                matches!(config.validate(), Err(ConfigError::ListenWithoutTls { .. })),
                "{listen}"
            );
        }
        Config {
            listen: vec!["[::1]:0".parse().unwrap()],
            ..config()
        }
        .validate()
        .expect("good");
    }

    #[test]
    fn every_address_of_a_host_is_advertised_to_nobody() {
        for listen in ["0.0.0.0:7835", "[::]:7835"] {
            let listen = listen.parse().expect("an address");
            let refused = Config::check_reachable(Some(listen), None).expect_err("nobody can dial it");
            assert!(refused.to_string().contains("--advertise"), "{refused}");
            Config::check_reachable(Some(listen), Some("10.0.0.1:7835")).expect("that can be dialled");
        }
        Config::check_reachable(None, None).expect("its default is loopback");
        let config = Config {
            listen: vec!["[::]:7835".parse().expect("an address")],
            ..config()
        };
        // Without TLS it may not listen there in any case.
        assert!(matches!(config.validate(), Err(ConfigError::ListenWithoutTls { .. })));
    }

    #[test]
    fn an_advertised_address_can_be_dialled() {
        for address in [
            "",
            "127.0.0.1",
            "127.0.0.1:0",
            "0.0.0.0:7835",
            ":7835",
            "a b:1",
            "host:70000",
            "::1:7835",
            "1.2.3:4",
        ] {
            let config = Config {
                advertise: Some(address.into()),
                ..config()
            };
            assert!(
                matches!(config.validate(), Err(ConfigError::Advertise { .. })),
                "{address:?}"
            );
        }
        for address in ["127.0.0.1:7835", "[::1]:7835", "node-1.example.com:7835"] {
            Config {
                advertise: Some(address.into()),
                ..config()
            }
            .validate()
            .expect(address);
        }
    }
}
