//! The configuration of an instance.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use curator_election::lease_deadline::effective_ttl;
use curator_election::{DEFAULT_FAILOVER_LIMIT, MIN_FAILOVER_LIMIT};
use curator_identity::{CURATOR_PORT, CredentialsWatch};
use curator_listener::ListenerConfig;

use crate::auth::Authenticator;
use crate::consensus::Consensus;
use crate::leader::added_services::LeaderServices;
use crate::log_filter::LogFilter;
pub use crate::state::limits::StateLimits;
use crate::status_page::Observe;

/// The configuration of one instance.
#[derive(Clone)]
pub struct Config {
    /// The id of the node that the instance runs on. Ids are unique: one instance per id.
    pub node_id: String,
    /// The store of the cluster's state.
    pub consensus: Arc<dyn Consensus>,
    /// The key prefix of the election, without a trailing slash.
    pub election_prefix: String,
    /// The TTL of the leader's lease, in whole seconds. Ten seconds if it is shorter than one second.
    pub leader_ttl: Duration,
    /// The failover limit: how soon after its death this instance may be replaced as leader, if the store takes the
    /// challenge keys. At most half of the TTL is in effect. `None`: when its lease expires.
    pub failover_limit: Option<Duration>,
    /// The listen addresses, at least one.
    pub listen: Vec<SocketAddr>,
    /// The address at which other instances and clients reach this one. `None`: the first listen address.
    pub advertise: Option<String>,
    /// The maximum time that a call waits for a leader, within its own deadline. `None`: the TTL plus five seconds,
    /// which outlasts a failover.
    pub hold_cap: Option<Duration>,
    /// How long the instance may be unable to serve (a blocked thread, a leader whose reads do not return) before it
    /// stops leading and standing for election. `None`: the TTL, at least five seconds.
    pub stuck_after: Option<Duration>,
    /// The size limits of the cluster's state. They must be the same on all instances.
    pub state_limits: StateLimits,
    /// The maximum number of calls that wait for a leader.
    pub hold_limit: usize,
    /// The maximum number of open connections. At the limit, a new connection replaces one that has made no call, or is
    /// refused.
    pub max_connections: usize,
    /// The maximum number of connections per peer: an IPv4 address or an IPv6 /64. `None`: a quarter of
    /// `max_connections`. Loopback is not limited.
    pub max_connections_per_peer: Option<usize>,
    /// The age at which a connection stops accepting calls, so that clients spread over the instances again. `None`: no
    /// limit.
    pub max_connection_age: Option<Duration>,
    /// How long a shutdown may take, including the handover of leadership and the calls under way.
    pub grace: Duration,
    /// The number of threads that serve connections; 0 to use the caller's runtime.
    pub threads: usize,
    /// The node's certificate and key. With credentials, all connections use TLS; without, only loopback may be
    /// listened on.
    pub credentials: Option<CredentialsWatch>,
    /// How callers are authenticated. `None`: by their certificates if there are credentials, otherwise not at all.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Whether the instance reports its own node: heartbeats, and the node's address unless an agent reports the
    /// status. Needs credentials. For a node without an agent.
    pub report_node: bool,
    /// The metrics and status server. `None`: no such server.
    pub observe: Option<Observe>,
    /// The log filter, which users may change at run time. `None`: it cannot be changed.
    pub log_filter: Option<Arc<dyn LogFilter>>,
    /// The leader's services beside the Curator's own.
    pub leader_services: LeaderServices,
}

/// An invalid configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The node id cannot be part of a key.
    #[error("invalid node id {id:?}: it must not be empty or contain slashes, white space or control characters")]
    NodeId {
        /// The given value.
        id: String,
    },
    /// The election prefix is not a valid key prefix.
    #[error(
        "invalid election prefix {prefix:?}: it must start with a slash, not end with one, and have no empty parts, \
         for example /leader"
    )]
    ElectionPrefix {
        /// The given value.
        prefix: String,
    },
    /// Without TLS, only loopback addresses are allowed.
    #[error("{listen} is not a loopback address: without TLS, listen on loopback only, for example 127.0.0.1:7835")]
    ListenWithoutTls {
        /// The listen address.
        listen: SocketAddr,
    },
    /// The node id differs from that of the certificate.
    #[error(
        "the node id is {id}, but the certificate is for {certified}: remove the node id, or use \
         the certificate of {id}"
    )]
    OtherNode {
        /// The configured node id.
        id: String,
        /// The node id in the certificate.
        certified: String,
    },
    /// The advertised address is invalid.
    #[error("invalid advertised address {address:?}: use host:port, for example 127.0.0.1:7835")]
    Advertise {
        /// The given value.
        address: String,
    },
    /// The instance listens on a wildcard address and has no advertised address.
    #[error(
        "{listen} is a wildcard address, which others cannot dial: set --advertise to the host:port of this \
         instance, for example 10.0.0.1:{}", listen.port()
    )]
    NoAdvertise {
        /// The listen address.
        listen: SocketAddr,
    },
    /// The failover limit is too small.
    #[error("failover limit {limit:?} too small: use at least {MIN_FAILOVER_LIMIT:?}, or off")]
    FailoverLimit {
        /// The given value.
        limit: Duration,
    },
    /// The elector's configuration is invalid.
    #[error(transparent)]
    Elector(#[from] curator_election::ElectorError),
}

impl Config {
    /// A configuration with defaults: prefix `/leader`, a TTL of ten seconds, port 7835 on IPv4 loopback, one thread
    /// per core.
    pub fn new(node_id: impl Into<String>, consensus: Arc<dyn Consensus>) -> Self {
        Self {
            node_id: node_id.into(),
            consensus,
            election_prefix: "/leader".into(),
            leader_ttl: Duration::ZERO,
            failover_limit: Some(DEFAULT_FAILOVER_LIMIT),
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
            leader_services: LeaderServices::new(),
        }
    }

    /// The TTL that the instance requests.
    #[must_use]
    pub const fn effective_ttl(&self) -> Duration {
        effective_ttl(self.leader_ttl)
    }

    /// The failover limit in effect.
    #[must_use]
    pub fn effective_failover_limit(&self) -> Option<Duration> {
        self.failover_limit.map(|limit| limit.min(self.effective_ttl() / 2))
    }

    /// How long the instance may be unable to serve before it stops leading.
    #[must_use]
    pub fn effective_stuck_after(&self) -> Duration {
        let by_itself = self.effective_ttl().max(Duration::from_secs(5));
        self.stuck_after.unwrap_or(by_itself).max(Duration::from_millis(100))
    }

    /// Checks the configuration before anything is started.
    ///
    /// # Errors
    /// The first invalid value.
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
        if let Some(limit) = self.failover_limit
            && limit < MIN_FAILOVER_LIMIT
        {
            return Err(ConfigError::FailoverLimit { limit });
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
    /// Checks that others can reach an instance by its advertised address, which defaults to its first listen address.
    ///
    /// # Errors
    /// The default would be a wildcard address.
    pub fn check_reachable(listen: Option<SocketAddr>, advertise: Option<&str>) -> Result<(), ConfigError> {
        match (listen, advertise) {
            (Some(listen), None) if listen.ip().is_unspecified() => Err(ConfigError::NoAdvertise { listen }),
            _ => Ok(()),
        }
    }
}

/// `host:port` with a port other than 0; an IPv6 address is in brackets.
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
        // Only digits and dots: a malformed IP address.
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
    fn a_failover_limit_is_at_least_half_a_second_and_in_effect_at_most_half_of_the_ttl() {
        let limited = |limit_ms, ttl| Config {
            failover_limit: Some(Duration::from_millis(limit_ms)),
            leader_ttl: Duration::from_secs(ttl),
            ..config()
        };
        assert!(matches!(
            limited(499, 10).validate(),
            Err(ConfigError::FailoverLimit { .. })
        ));
        for (limit_ms, ttl, effective_ms) in [(500, 10, 500), (1_000, 1, 500), (60_000, 10, 5_000)] {
            let config = limited(limit_ms, ttl);
            config.validate().unwrap();
            let effective = config.effective_failover_limit();
            assert_eq!(effective, Some(Duration::from_millis(effective_ms)));
        }
    }

    #[test]
    fn default_configuration_is_valid() {
        config().validate().expect("good");
        assert_eq!(config().effective_ttl(), Duration::from_secs(10));
    }

    #[test]
    fn invalid_node_id_is_refused() {
        for id in ["", "a/b", "a b", "a\nb"] {
            let config = Config {
                node_id: id.into(),
                ..config()
            };
            assert!(matches!(config.validate(), Err(ConfigError::NodeId { .. })), "{id:?}");
        }
    }

    #[test]
    fn invalid_election_prefix_is_refused() {
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
    fn listen_without_tls_requires_loopback() {
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
    fn wildcard_address_requires_advertise() {
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
    fn invalid_advertised_address_is_refused() {
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
