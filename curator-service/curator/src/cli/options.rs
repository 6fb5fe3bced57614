//! Arguments that several commands share, and their parsers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args};
use curator_election::MIN_FAILOVER_LIMIT;
use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::store::Store;
use curator_service::{
    Consensus, EmbeddedConsensus, EtcdConsensus, LeaseObserver, open_embedded, open_existing_embedded,
};

use crate::cli::plaintext;
use crate::process::new_store::NewStore;

/// The configuration file.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (TOML). Its keys are the long flags of `curator serve`, such as leader-ttl = "5s". Flags
    /// override variables, and variables override the file.
    #[arg(long, env = "CURATOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The store of the state.
#[derive(Args)]
#[command(group = ArgGroup::new("store").required(true).args(["etcd_endpoints", "embedded"]))]
pub(crate) struct StoreArgs {
    /// Client URLs of the etcd members, separated by commas: http, https, or unix:// with the absolute path of a
    /// socket.
    #[arg(long, env = "CURATOR_ETCD_ENDPOINTS", value_name = "URL", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,

    /// File that pins the id of the etcd cluster, so that no other cluster is ever used, even after a restart. It is
    /// created at the first connection; remove it to move to another cluster. Without this flag, the id is pinned
    /// until the process exits.
    #[arg(
        long,
        env = "CURATOR_ETCD_CLUSTER_FILE",
        value_name = "FILE",
        requires = "etcd_endpoints"
    )]
    etcd_cluster_file: Option<PathBuf>,

    #[command(flatten)]
    access: EtcdAccessArgs,

    /// Directory for an embedded store, instead of etcd. For a single instance: not highly available.
    #[arg(long, env = "CURATOR_EMBEDDED", value_name = "DIR")]
    pub(crate) embedded: Option<PathBuf>,

    /// Namespace of all keys: parts separated by colons. It cannot be empty: keys at the root of a shared etcd could
    /// collide with others, and roles could not be granted by prefix.
    #[arg(
        long,
        env = "CURATOR_ETCD_NAMESPACE",
        value_name = "PARTS",
        default_value = "namespaced:curator"
    )]
    pub(crate) etcd_namespace: Namespace,
}

/// TLS and authentication of etcd. All files are polled every few seconds.
#[derive(Args)]
struct EtcdAccessArgs {
    /// CA certificates (PEM) used to verify etcd; required with https. The system's CAs are not used.
    #[arg(long, env = "CURATOR_ETCD_CA", value_name = "FILE", requires = "etcd_endpoints")]
    etcd_ca: Option<PathBuf>,

    /// Client certificate (PEM) for etcd.
    #[arg(long, env = "CURATOR_ETCD_CERT", value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,

    /// Private key (PEM) of the client certificate. Mode 0600.
    #[arg(long, env = "CURATOR_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,

    /// etcd user. It needs readwrite permission on all keys of the namespace, and of the two sibling namespaces whose
    /// last parts are etcd-pki and kubernetes.
    #[arg(
        long,
        env = "CURATOR_ETCD_USER",
        value_name = "NAME",
        requires = "etcd_password_file"
    )]
    etcd_user: Option<String>,

    /// File with the password of the etcd user. Mode 0600.
    #[arg(
        long,
        env = "CURATOR_ETCD_PASSWORD_FILE",
        value_name = "FILE",
        requires = "etcd_user"
    )]
    etcd_password_file: Option<PathBuf>,
}

impl StoreArgs {
    pub(crate) fn etcd(&self) -> EtcdConfig {
        let mut config = EtcdConfig::new(self.etcd_endpoints.clone());
        config.access.ca.clone_from(&self.access.etcd_ca);
        config.access.certificate.clone_from(&self.access.etcd_cert);
        config.access.key.clone_from(&self.access.etcd_key);
        config.access.user.clone_from(&self.access.etcd_user);
        config.access.password_file.clone_from(&self.access.etcd_password_file);
        config.cluster_file.clone_from(&self.etcd_cluster_file);
        config
    }

    /// A warning about insecure endpoints, if there are any.
    pub(crate) fn warning(&self) -> Option<String> {
        plaintext::warning(&self.etcd_endpoints)
    }

    /// The consensus for the instance of a node. The observer is told of its leases, unless the store is embedded.
    pub(crate) fn consensus(
        &self,
        node_id: &str,
        observer: Option<Arc<dyn LeaseObserver>>,
    ) -> Result<Arc<dyn Consensus>, Box<dyn std::error::Error>> {
        let namespace = self.etcd_namespace.clone();
        Ok(match (&self.embedded, observer) {
            (Some(directory), _) => Arc::new(EmbeddedConsensus::open(directory, namespace, node_id)?),
            (None, None) => Arc::new(EtcdConsensus::with(self.etcd(), namespace)?),
            (None, Some(observer)) => {
                Arc::new(EtcdConsensus::with(self.etcd(), namespace)?.with_lease_observer(observer))
            }
        })
    }

    /// The store within the namespace; an embedded store must exist.
    pub(crate) fn existing(&self) -> Result<Arc<dyn Store>, Box<dyn std::error::Error>> {
        match &self.embedded {
            Some(directory) => Ok(open_existing_embedded(directory, self.etcd_namespace.clone())?),
            None => self.store(),
        }
    }

    /// The store within the namespace, to be filled. A new embedded store is removed again unless it is kept.
    pub(crate) fn store_to_fill(&self) -> Result<NewStore, Box<dyn std::error::Error>> {
        match &self.embedded {
            Some(directory) => NewStore::embedded(directory, self.etcd_namespace.clone()),
            None => Ok(NewStore::existing(self.store()?)),
        }
    }

    /// The store within the namespace.
    pub(crate) fn store(&self) -> Result<Arc<dyn Store>, Box<dyn std::error::Error>> {
        let namespace = self.etcd_namespace.clone();
        match &self.embedded {
            Some(directory) => Ok(open_embedded(directory, namespace)?),
            None => {
                let etcd = EtcdStore::new(self.etcd())?;
                Ok(Arc::new(Namespaced::with_siblings(etcd, namespace)))
            }
        }
    }
}

/// Maximum TTL of etcd, in seconds.
const MAX_TTL_SECONDS: u64 = 9_000_000_000;

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let right = "expected a number and a unit (ms, s, m or h), such as 500ms, 10s or 2m";
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(|| format!("missing unit: {right}"))?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| right.to_owned())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("unknown unit {unit:?}: {right}")),
    };
    match number.checked_mul(milliseconds) {
        Some(total) if total / 1_000 <= MAX_TTL_SECONDS => Ok(Duration::from_millis(total)),
        _ => Err(format!("too long: at most {MAX_TTL_SECONDS}s")),
    }
}

/// The value of `--failover-limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailoverLimit(pub(crate) Option<Duration>);

pub(crate) fn parse_failover_limit(text: &str) -> Result<FailoverLimit, String> {
    if text == "off" {
        return Ok(FailoverLimit(None));
    }
    let limit = parse_duration(text).map_err(|error| format!("{error}, or off"))?;
    if limit < MIN_FAILOVER_LIMIT {
        return Err(format!("too short: use at least {MIN_FAILOVER_LIMIT:?}, or off"));
    }
    Ok(FailoverLimit(Some(limit)))
}

pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an IP address and a port, such as 127.0.0.1:7835 or [::1]:7835".to_owned())
}

/// etcd's default `--election-timeout`.
const ETCD_ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// A warning about a failover limit in effect that is shorter than an election of etcd usually takes.
pub(crate) fn short_limit(limit: Option<Duration>) -> Option<String> {
    let limit = limit.filter(|limit| *limit < ETCD_ELECTION_TIMEOUT)?;
    Some(format!(
        "the failover limit in effect is {limit:?}, less than etcd's election timeout ({ETCD_ELECTION_TIMEOUT:?} by \
         default): each election of etcd's own leader suspends the term for longer, and calls wait; raise \
         --failover-limit, and --leader-ttl to twice as much at least"
    ))
}

/// Parses a public key: 64 hex digits.
pub(crate) fn parse_key(text: &str) -> Result<[u8; 32], String> {
    let key = parse_hex(text).ok().and_then(|bytes| (*bytes).try_into().ok());
    key.ok_or_else(|| "expected 64 hex digits (an Ed25519 public key of 32 bytes)".to_owned())
}

/// Parses bytes of two hex digits each.
pub(crate) fn parse_hex(text: &str) -> Result<Arc<[u8]>, String> {
    let right = "expected hex digits, two for each byte";
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(right.to_owned());
    }
    let bytes = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    bytes.collect::<Result<_, _>>().map_err(|_| right.to_owned())
}

/// Parses `key=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected key=value, such as rack=r1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_below_an_election_of_etcd_are_warned_of() {
        for (limit_ms, warns) in [(500, true), (999, true), (1_000, false), (5_000, false)] {
            assert_eq!(short_limit(Some(Duration::from_millis(limit_ms))).is_some(), warns);
        }
        assert_eq!(short_limit(None), None);
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "10 s",
            "10d",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            let error = parse_duration(bad).unwrap_err();
            assert!(
                error.contains("such as") || error.contains("at most"),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn keys_are_64_hex_digits() {
        assert_eq!(parse_key(&"0f".repeat(32)), Ok([0x0f; 32]));
        for bad in ["", "0f", &"0g".repeat(32), &"0f".repeat(33), &"ä".repeat(32)] {
            assert!(parse_key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_have_a_key() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_label("a").is_err() && parse_label("=b").is_err());
    }
}
