//! `curator serve`: runs an instance.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args};
use curator_listener::DEFAULT_ADDRESS;
use curator_service::{
    Config, CredentialsWatch, FixedConsensus, LeaseObserver, Service, StateLimits, check_state, check_whole,
    only_consensus_member, wall_clock,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cli::options::{
    ConfigArgs, FailoverLimit, StoreArgs, parse_duration, parse_failover_limit, parse_listen, short_limit,
};
use crate::config::defaults;
use crate::config::merge::Settings;
use crate::config::reload::Reload;
use crate::process::clock;
use crate::process::lease_file::LeaseFile;
use crate::process::lease_report::{LeaseReporter, supervisor_gone};
use crate::process::logging::{self, FILTER_VARIABLE, Filter, LogFormat, LogHandle};
use crate::process::metrics::ObserveAt;
use crate::process::otlp::{TraceArgs, Traces};
use crate::process::supervisor;
use crate::process::systemd::ServiceManager;

/// How long blocking tasks may take at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The configuration of an instance.
#[derive(Args)]
#[command(group = ArgGroup::new("tls").required(true).multiple(true).args(["credentials", "insecure_loopback_only", "embedded"]))]
pub(crate) struct Serve {
    #[command(flatten)]
    _config: ConfigArgs,

    /// Id of the node that this instance runs on. One instance per id.
    #[arg(
        long,
        env = "CURATOR_NODE_ID",
        value_name = "ID",
        required_unless_present_any = ["credentials", "embedded"]
    )]
    node_id: Option<String>,

    /// Directory with the node's credentials: ca.pem, node.pem and node-key.pem, as written by `curator bootstrap` and
    /// `curator register`; or ca.pem, cert.pem and cert-key.pem of the Go Curator. The key must have mode 0600 and the
    /// directory mode 0700. New files are loaded within seconds.
    #[arg(long, env = "CURATOR_CREDENTIALS", value_name = "DIR")]
    credentials: Option<PathBuf>,

    /// Run without TLS, on loopback addresses only. Callers are unauthenticated; only methods without authorization
    /// work.
    #[arg(long, env = "CURATOR_INSECURE_LOOPBACK_ONLY", conflicts_with = "credentials")]
    insecure_loopback_only: bool,

    #[command(flatten)]
    store: StoreArgs,

    /// Prefix of the election's keys within the namespace.
    #[arg(
        long,
        env = "CURATOR_ELECTION_PREFIX",
        value_name = "PREFIX",
        default_value = "/leader"
    )]
    election_prefix: String,

    /// TTL of the leader's lease. Rounded down to seconds; below one second means 10s.
    #[arg(long, env = "CURATOR_LEADER_TTL", value_name = "DURATION", default_value = defaults::LEADER_TTL, value_parser = parse_duration)]
    leader_ttl: Duration,

    /// How soon the other instances may replace this one once it has died as leader: at least 500ms, at most half of
    /// the TTL is in effect. off: when its lease expires. With --embedded there is nobody to replace it.
    #[arg(long, env = "CURATOR_FAILOVER_LIMIT", value_name = "DURATION|off", default_value = defaults::FAILOVER_LIMIT, value_parser = parse_failover_limit)]
    failover_limit: FailoverLimit,

    /// Addresses to listen on, separated by commas or given by repeated flags.
    #[arg(
        long,
        env = "CURATOR_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        value_parser = parse_listen
    )]
    listen: Vec<SocketAddr>,

    /// Address at which other instances and clients reach this one, as host:port.
    #[arg(long, env = "CURATOR_ADVERTISE", value_name = "ADDRESS")]
    advertise: Option<String>,

    /// Maximum time that a call waits for a leader, within its own deadline.
    #[arg(long, env = "CURATOR_HOLD_CAP", value_name = "DURATION", value_parser = parse_duration)]
    hold_cap: Option<Duration>,

    /// How long an instance that renews its lease may be unable to serve before it gives up the leadership.
    #[arg(long, env = "CURATOR_STUCK_AFTER", value_name = "DURATION", value_parser = parse_duration)]
    stuck_after: Option<Duration>,

    /// Maximum size of a record of the state, such as a node, in bytes. Larger changes are refused.
    #[arg(
        long,
        env = "CURATOR_MAX_RECORD_BYTES",
        value_name = "BYTES",
        default_value_t = defaults::max_record_bytes(),
        value_parser = clap::value_parser!(u32).range(4_096..=1_000_000)
    )]
    max_record_bytes: u32,

    /// Maximum size of the state (all keys and values) in bytes. The leader keeps the state in memory. Larger changes
    /// are refused. Use the same value on all instances.
    #[arg(
        long,
        env = "CURATOR_MAX_STATE_BYTES",
        value_name = "BYTES",
        default_value_t = defaults::max_state_bytes(),
        value_parser = clap::value_parser!(u64).range(1_048_576..)
    )]
    max_state_bytes: u64,

    /// Maximum number of calls that wait for a leader. Further calls are refused.
    #[arg(long, env = "CURATOR_HOLD_LIMIT", value_name = "CALLS", default_value_t = defaults::hold_limit())]
    hold_limit: usize,

    /// Maximum number of open connections. At the limit, a connection without calls is closed for a new one; if there
    /// is no such connection, new ones are refused.
    #[arg(
        long,
        env = "CURATOR_MAX_CONNECTIONS",
        value_name = "CONNECTIONS",
        default_value_t = defaults::max_connections(),
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_connections: u32,

    /// Maximum number of open connections of one peer: an IPv4 address or an IPv6 /64. All clients behind a proxy or
    /// NAT are one peer.
    #[arg(
        long,
        env = "CURATOR_MAX_CONNECTIONS_PER_PEER",
        value_name = "CONNECTIONS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_connections_per_peer: Option<u32>,

    /// Maximum age of a connection. An older connection gets GOAWAY, so that its client reconnects and clients spread
    /// over the instances again after a restart.
    #[arg(long, env = "CURATOR_MAX_CONNECTION_AGE", value_name = "DURATION", value_parser = parse_duration)]
    max_connection_age: Option<Duration>,

    /// Do not report this node to the leader; the node's own agent does. By default, an instance with credentials
    /// sends the node's heartbeat, and the IP address of --advertise unless an agent reports more.
    #[arg(long, env = "CURATOR_NO_REPORT_NODE")]
    no_report_node: bool,

    /// Number of threads that serve connections.
    #[arg(long, env = "CURATOR_THREADS", value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,

    /// Maximum time to transfer the leadership and to finish running calls at shutdown.
    #[arg(long, env = "CURATOR_GRACE", value_name = "DURATION", default_value = defaults::GRACE, value_parser = parse_duration)]
    grace: Duration,

    /// Address for metrics, the status page, /livez and /readyz, over plain HTTP without authentication; or `off`.
    #[arg(long, env = "CURATOR_OBSERVE", value_name = "ADDRESS", default_value_t = ObserveAt::default())]
    observe: ObserveAt,

    #[command(flatten)]
    traces: TraceArgs,

    /// Run the instance under a small supervisor process, which revokes its lease as soon as the instance is dead, so
    /// that another instance leads at once instead of after the TTL. Signals are forwarded, and the exit code is that
    /// of the instance.
    #[arg(long, env = "CURATOR_SUPERVISED", conflicts_with = "embedded")]
    supervised: bool,

    /// Set by the supervisor: leases are reported on standard output, and the end of standard input means that the
    /// supervisor is dead.
    #[arg(long, hide = true)]
    report_leases: bool,

    /// Local directory of this instance, in which its leases are recorded for `curator release`. No effect with
    /// --embedded, whose leases end with the instance.
    #[arg(long, env = "CURATOR_RUNTIME_DIR", value_name = "DIR")]
    runtime_dir: Option<PathBuf>,

    /// Format of log lines. The log goes to standard error.
    #[arg(long, env = "CURATOR_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// Log filter: a level, TARGET=LEVEL, or several of them separated by commas, such as info,curator_election=debug.
    /// SIGHUP reloads it from the file.
    #[arg(long, env = FILTER_VARIABLE, value_name = "FILTER", default_value_t)]
    pub(crate) log_filter: Filter,
}

impl Serve {
    /// Starts the export of spans. A supervisor has none.
    fn traces(&self) -> Result<Traces, Box<dyn std::error::Error>> {
        if self.is_supervisor() {
            Ok(Traces::default())
        } else {
            self.traces.start(self.node_id.as_deref())
        }
    }

    /// Whether this process is the supervisor, and not the instance.
    const fn is_supervisor(&self) -> bool {
        self.supervised && !self.report_leases
    }

    /// Runs until a signal; returns the exit code.
    pub(crate) fn run(&self, argv: Vec<OsString>, settings: Settings) -> ExitCode {
        // Dropped last: this sends the remaining spans.
        let traces = match self.traces() {
            Ok(traces) => traces,
            Err(error) => return super::usage_error(&*error, "serve"),
        };
        let log = match logging::init(self.log_format, &self.log_filter, &traces) {
            Ok(log) => Arc::new(log),
            Err(error) => return super::usage_error(&*Box::<dyn std::error::Error>::from(error), "serve"),
        };
        // Also if the file sets it, which the instance reads again.
        if self.is_supervisor() {
            return supervisor::run(self.store.etcd());
        }
        raise_file_limit();
        if let Some(warning) = self.store.warning() {
            warn!("{warning}");
        }
        let config = match self.prepare(log.clone()) {
            Ok(config) => config,
            Err(error) => return super::usage_error(&*error, "serve"),
        };
        if let Some(warning) = short_limit(config.effective_failover_limit()) {
            warn!("{warning}");
        }
        let reload = Reload::new(
            Arc::new(move || super::reread(&argv)),
            settings,
            log,
            config.credentials.clone(),
        );
        let service = match Service::new(config) {
            Ok(service) => service,
            Err(error) => return super::usage_error(&error, "serve"),
        };
        match run(service, reload, self.report_leases) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                error!(error = %failure, "instance failed");
                ExitCode::FAILURE
            }
        }
    }

    /// Validates the configuration without reading files or connecting to anything.
    pub(crate) fn check(&self) -> Result<(), Box<dyn std::error::Error>> {
        let placeholder = || "node".to_owned();
        let consensus = Arc::new(FixedConsensus::not_running("a check"));
        let mut config = Config::new(self.node_id.clone().unwrap_or_else(placeholder), consensus);
        // With TLS, any listen address is allowed.
        if self.credentials.is_none() && !self.listen.is_empty() {
            config.listen.clone_from(&self.listen);
        }
        self.fill(&mut config);
        config.validate()?;
        let listen = self.listen.first().copied();
        let listen = listen.or_else(|| self.credentials.is_some().then_some(DEFAULT_ADDRESS));
        Config::check_reachable(listen, self.advertise.as_deref())?;
        if self.store.embedded.is_none() {
            self.store.etcd().check()?;
        }
        Ok(())
    }

    fn prepare(&self, log: Arc<LogHandle>) -> Result<Config, Box<dyn std::error::Error>> {
        let credentials = match &self.credentials {
            Some(directory) => {
                let load = || CredentialsWatch::new(directory.clone(), wall_clock);
                #[allow(clippy::disallowed_methods, reason = "there is no runtime yet that it could block")]
                let pause = || std::thread::sleep(clock::POLL_INTERVAL);
                Some(clock::wait_until_valid(load, pause)?)
            }
            None => None,
        };
        if let (Some(directory), Some(credentials)) = (&self.store.embedded, &credentials) {
            check_embedded(&self.store, credentials).map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        let certified = credentials
            .as_ref()
            .map(|credentials| credentials.newest().node_id().to_owned());
        let node_id = match self.node_id.clone().or(certified) {
            Some(id) => id,
            // Without a node id and credentials, the arguments require --embedded.
            None => embedded_node(&self.store)?,
        };
        let consensus = self.store.consensus(&node_id, lease_observer(self)?)?;
        let mut config = Config::new(node_id, consensus);
        match (&self.listen[..], &credentials) {
            ([], Some(_)) => config.listen = vec![DEFAULT_ADDRESS],
            // The default of `Config` is a loopback address.
            ([], None) => {}
            (listen, _) => config.listen = listen.to_vec(),
        }
        config.credentials = credentials;
        self.fill(&mut config);
        config.observe = self.observe.start()?;
        config.log_filter = Some(log);
        Ok(config)
    }

    /// Copies the values that need no preparation.
    fn fill(&self, config: &mut Config) {
        config.election_prefix.clone_from(&self.election_prefix);
        config.leader_ttl = self.leader_ttl;
        config.failover_limit = self.failover_limit.0.filter(|_| self.store.embedded.is_none());
        config.advertise.clone_from(&self.advertise);
        config.hold_cap = self.hold_cap;
        config.stuck_after = self.stuck_after;
        config.state_limits = StateLimits {
            record: usize::try_from(self.max_record_bytes).unwrap_or(usize::MAX),
            total: usize::try_from(self.max_state_bytes).unwrap_or(usize::MAX),
        };
        config.hold_limit = self.hold_limit;
        config.max_connections = usize::try_from(self.max_connections).unwrap_or(usize::MAX);
        config.max_connections_per_peer = self
            .max_connections_per_peer
            .map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        config.max_connection_age = self.max_connection_age;
        config.report_node = !self.no_report_node;
        config.grace = self.grace;
        if let Some(threads) = self.threads {
            config.threads = threads.into();
        }
    }
}

/// The observer of the leases, if they are reported or recorded.
fn lease_observer(serve: &Serve) -> Result<Option<Arc<dyn LeaseObserver>>, Box<dyn std::error::Error>> {
    if serve.store.embedded.is_some() {
        return Ok(None);
    }
    let file = serve.runtime_dir.as_deref().map(LeaseFile::begin).transpose()?;
    if !serve.report_leases && file.is_none() {
        return Ok(None);
    }
    Ok(Some(Arc::new(LeaseReporter::new(serve.report_leases, file)?)))
}

/// Checks an embedded store before the start: its only instance leads at once.
fn check_embedded(store: &StoreArgs, credentials: &CredentialsWatch) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = store.existing()?;
    Ok(runtime.block_on(check_state(&*store, credentials))?)
}

/// The node id of the only consensus member; before the bootstrap, a placeholder.
fn embedded_node(store: &StoreArgs) -> Result<String, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = store.store()?;
    runtime.block_on(check_whole(&*store))?;
    let only = runtime.block_on(only_consensus_member(&*store))?;
    if only.is_none() {
        info!("the store has no cluster: stop this instance, run `curator bootstrap`, and start it again");
    }
    Ok(only.unwrap_or_else(|| "node-1".to_owned()))
}

fn run(service: Service, reload: Reload, is_supervised: bool) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let manager = ServiceManager::from_env();
        let liveness = service.liveness();
        let responds = async || liveness.responds().await;
        let mut following = std::pin::pin!(manager.follow(service.status(), responds));
        let mut reloading = std::pin::pin!(async {
            while hangup.recv().await.is_some() {
                manager.during_reload(reload.run()).await;
            }
            std::future::pending::<()>().await;
        });
        let mut running = std::pin::pin!(service.run(cancel.clone()));
        let orphaned = async {
            if is_supervised {
                supervisor_gone().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        // One task for all, so that a stuck runtime also stops the reports to the service manager.
        let name = tokio::select! {
            ended = &mut running => return Ok(ended?),
            () = &mut following => "the end of the status reports",
            () = &mut reloading => "the end of the SIGHUP handler",
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = orphaned => "the end of the supervisor",
        };
        info!(
            signal = name,
            "shutting down: transferring the leadership first; a second signal exits at once"
        );
        cancel.cancel();
        manager.stopping().await;
        tokio::select! {
            ended = &mut running => Ok(ended?),
            () = &mut following => std::future::pending().await,
            _ = terminate.recv() => Err("exited at once on a second signal".into()),
            _ = interrupt.recv() => Err("exited at once on a second signal".into()),
        }
    });
    // Blocking tasks (file reads, service manager) are not waited for.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    ended
}

/// Disables core dumps, which would contain private keys. To get one anyway, raise the limit of the running process.
pub(crate) fn disable_core_dumps() {
    let limit = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    if let Err(error) = setrlimit(Resource::Core, limit) {
        eprintln!("warning: cannot disable core dumps; a crash may write private keys to a core file: {error}");
    }
}

/// Raises the limit of open files: each connection needs one, and the usual limit of 1,024 is too low for a large
/// cluster.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current >= limit.maximum && limit.maximum.is_some() {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the open file limit; connections beyond it are refused");
    }
}
