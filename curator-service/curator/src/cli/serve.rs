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
    Config, CredentialsWatch, FixedConsensus, LeaseWitness, Service, StateLimits, check_state, check_whole,
    only_consensus_member, wall_clock,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cli::options::{ConfigArgs, StoreArgs, parse_duration, parse_listen};
use crate::config::merge::Settings;
use crate::config::reload::Reload;
use crate::process::clock;
use crate::process::lease_file::LeaseFile;
use crate::process::lease_report::{Witness, parent_gone};
use crate::process::logging::{self, FILTER_VARIABLE, Filter, LogFormat, LogHandle};
use crate::process::metrics::ObserveAt;
use crate::process::otlp::{TraceArgs, Traces};
use crate::process::supervisor;
use crate::process::systemd::ServiceManager;

/// How long what is left at the end may take.
const LAST: Duration = Duration::from_secs(1);

/// How an instance runs.
#[derive(Args)]
#[command(group = ArgGroup::new("tls").required(true).multiple(true).args(["credentials", "insecure_loopback_only", "embedded"]))]
pub(crate) struct Serve {
    #[command(flatten)]
    _config: ConfigArgs,

    /// The id of the node that this instance runs on, one instance per id [default: that of the certificate; with --embedded
    /// that of the first node of the cluster that is there].
    #[arg(
        long,
        env = "CURATOR_NODE_ID",
        value_name = "ID",
        required_unless_present_any = ["credentials", "embedded"]
    )]
    node_id: Option<String>,

    /// The directory of the node's credentials: ca.pem, node.pem and node-key.pem, as `curator bootstrap --credentials` or `curator
    /// register` make it, or ca.pem, cert.pem and cert-key.pem as the Go Curator has left them. Nobody else may read the key (mode 600), or change what is there (mode 700). What is new in it is used
    /// within seconds.
    #[arg(long, env = "CURATOR_CREDENTIALS", value_name = "DIR")]
    credentials: Option<PathBuf>,

    /// Runs without TLS: on loopback alone, and with nobody recognized, so that only what asks for no caller is answered.
    #[arg(long, env = "CURATOR_INSECURE_LOOPBACK_ONLY", conflicts_with = "credentials")]
    insecure_loopback_only: bool,

    #[command(flatten)]
    store: StoreArgs,

    /// The prefix of the election's keys within the namespace.
    #[arg(
        long,
        env = "CURATOR_ELECTION_PREFIX",
        value_name = "PREFIX",
        default_value = "/leader"
    )]
    election_prefix: String,

    /// How long the leader's lease lasts without renewal: whole seconds count, under one second means 10s.
    #[arg(long, env = "CURATOR_LEADER_TTL", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    leader_ttl: Duration,

    /// The addresses to listen on, with commas between them or the flag repeated [default: [::]:7835, which is IPv4 as well;
    /// without TLS 127.0.0.1:7835].
    #[arg(
        long,
        env = "CURATOR_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        value_parser = parse_listen
    )]
    listen: Vec<SocketAddr>,

    /// The address that others reach this instance at, as host:port [default: the first one it listens on; needed where that is
    /// every address of the host].
    #[arg(long, env = "CURATOR_ADVERTISE", value_name = "ADDRESS")]
    advertise: Option<String>,

    /// How long a call may wait while no leader is known, within its own deadline [default: the TTL and five seconds].
    #[arg(long, env = "CURATOR_HOLD_CAP", value_name = "DURATION", value_parser = parse_duration)]
    hold_cap: Option<Duration>,

    /// How long the instance may be unable to serve, though it renews its lease, before it gives up leading until it can
    /// [default: the TTL, at least 5s].
    #[arg(long, env = "CURATOR_STUCK_AFTER", value_name = "DURATION", value_parser = parse_duration)]
    stuck_after: Option<Duration>,

    /// The largest record of the state (a node's, for example), in bytes. A change that makes one larger is refused.
    #[arg(
        long,
        env = "CURATOR_MAX_RECORD_BYTES",
        value_name = "BYTES",
        default_value_t = 262_144,
        value_parser = clap::value_parser!(u32).range(4_096..=1_000_000)
    )]
    max_record_bytes: u32,

    /// The largest state, all keys and values together, in bytes: each leader has it in memory. A change that makes it larger is
    /// refused. To be the same on all instances.
    #[arg(
        long,
        env = "CURATOR_MAX_STATE_BYTES",
        value_name = "BYTES",
        default_value_t = 268_435_456,
        value_parser = clap::value_parser!(u64).range(1_048_576..)
    )]
    max_state_bytes: u64,

    /// How many calls may wait for a leader at a time; any more are refused.
    #[arg(long, env = "CURATOR_HOLD_LIMIT", value_name = "CALLS", default_value_t = 16_384)]
    hold_limit: usize,

    /// How many connections may be open. When all are, those that have made no call yet make room for new ones; if there are
    /// none, new ones are refused.
    #[arg(
        long,
        env = "CURATOR_MAX_CONNECTIONS",
        value_name = "CONNECTIONS",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_connections: u32,

    /// How many connections one peer may have open, an IPv4 address or a /64 of IPv6 [default: a quarter of all, and as many as it
    /// wants for loopback]. Behind a proxy or NAT all clients are one peer.
    #[arg(
        long,
        env = "CURATOR_MAX_CONNECTIONS_PER_PEER",
        value_name = "CONNECTIONS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_connections_per_peer: Option<u32>,

    /// How old a connection may be until it takes no calls any more and its client is told to open another one, so that clients
    /// spread over the instances again after a restart [default: as old as it gets].
    #[arg(long, env = "CURATOR_MAX_CONNECTION_AGE", value_name = "DURATION", value_parser = parse_duration)]
    max_connection_age: Option<Duration>,

    /// Leave it to the node's own agent to report the node. Else this instance does, where it has a node's certificate: its heartbeat, and
    /// the IP address of --advertise, unless somebody says more of the node already.
    #[arg(long, env = "CURATOR_NO_REPORT_NODE")]
    no_report_node: bool,

    /// How many threads serve connections [default: one for each core].
    #[arg(long, env = "CURATOR_THREADS", value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,

    /// How long an instance that is told to stop may take to hand over its leadership and to end its calls.
    #[arg(long, env = "CURATOR_GRACE", value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    grace: Duration,

    /// Where metrics, the status page, /livez and /readyz are, over plain HTTP for whoever can connect; `off` for nowhere.
    #[arg(long, env = "CURATOR_OBSERVE", value_name = "ADDRESS", default_value_t = ObserveAt::default())]
    observe: ObserveAt,

    #[command(flatten)]
    traces: TraceArgs,

    /// Runs the instance under a small parent process, which gives its lease back the moment it is dead, however it died, so that
    /// another leads at once instead of after the TTL. Signals are passed on, and the exit code is the instance's.
    #[arg(long, env = "CURATOR_SUPERVISED", conflicts_with = "embedded")]
    supervised: bool,

    /// Set by the parent: leases are told on standard output, and the end of standard input is that of the parent.
    #[arg(long, hide = true)]
    report_leases: bool,

    /// A directory of this instance's own, on this host, in which its leases are noted for `curator release`. With --embedded there are
    /// none that outlive it.
    #[arg(long, env = "CURATOR_RUNTIME_DIR", value_name = "DIR")]
    runtime_dir: Option<PathBuf>,

    /// How log lines look. They go to standard error.
    #[arg(long, env = "CURATOR_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// What is logged: a level, or TARGET=LEVEL, or several with commas between them, such as info,curator_election=debug. SIGHUP
    /// takes it from the file anew.
    #[arg(long, env = FILTER_VARIABLE, value_name = "FILTER", default_value_t)]
    pub(crate) log_filter: Filter,
}

impl Serve {
    /// Where its spans go. The parent of an instance has none.
    fn traces(&self) -> Result<Traces, Box<dyn std::error::Error>> {
        match self.supervised && !self.report_leases {
            true => Ok(Traces::default()),
            false => self.traces.start(self.node_id.as_deref()),
        }
    }

    /// Runs until told to end; the exit code says how it ended.
    pub(crate) fn run(&self, argv: Vec<OsString>, settings: Settings) -> ExitCode {
        // Until the end, which waits for the last spans.
        let traces = match self.traces() {
            Ok(traces) => traces,
            Err(wrong) => return crate::wrong_arguments(&*wrong, "serve"),
        };
        let log = match logging::init(self.log_format, &self.log_filter, &traces) {
            Ok(log) => Arc::new(log),
            Err(wrong) => return crate::wrong_arguments(&*Box::<dyn std::error::Error>::from(wrong), "serve"),
        };
        // The file may say it as well, which the instance reads again.
        if self.supervised && !self.report_leases {
            return supervisor::run(self.store.etcd());
        }
        raise_file_limit();
        if let Some(warning) = self.store.warning() {
            warn!("{warning}");
        }
        let config = match self.prepare(log.clone()) {
            Ok(config) => config,
            Err(wrong) => return crate::wrong_arguments(&*wrong, "serve"),
        };
        let reload = Reload::new(argv, settings, log, config.credentials.clone());
        let service = match Service::new(config) {
            Ok(service) => service,
            Err(wrong) => return crate::wrong_arguments(&wrong, "serve"),
        };
        match run(service, reload, self.report_leases) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                error!(error = %failure, "ended by a failure");
                ExitCode::FAILURE
            }
        }
    }

    /// Says what is wrong, as far as that can be known without looking at files and connecting to anything.
    pub(crate) fn check(&self) -> Result<(), Box<dyn std::error::Error>> {
        let anybody = || "node".to_owned();
        let consensus = Arc::new(FixedConsensus::not_running("a check"));
        let mut config = Config::new(self.node_id.clone().unwrap_or_else(anybody), consensus);
        // With TLS any address may be listened on.
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
                let pause = || std::thread::sleep(clock::LOOK);
                Some(clock::once_right(load, pause)?)
            }
            None => None,
        };
        if let (Some(directory), Some(credentials)) = (&self.store.embedded, &credentials) {
            check_embedded(&self.store, credentials).map_err(|wrong| format!("{}: {wrong}", directory.display()))?;
        }
        let certified = credentials
            .as_ref()
            .map(|credentials| credentials.newest().node_id().to_owned());
        let node_id = match self.node_id.clone().or(certified) {
            Some(id) => id,
            // One of the others is there, as the arguments are declared.
            None => embedded_node(&self.store)?,
        };
        let consensus = self.store.consensus(&node_id, witness(self)?)?;
        let mut config = Config::new(node_id, consensus);
        match (&self.listen[..], &credentials) {
            ([], Some(_)) => config.listen = vec![DEFAULT_ADDRESS],
            // The configuration's own default is a loopback address.
            ([], None) => {}
            (listen, _) => config.listen = listen.to_vec(),
        }
        config.credentials = credentials;
        self.fill(&mut config);
        config.observe = self.observe.start()?;
        config.log_filter = Some(log);
        Ok(config)
    }

    /// What is simply passed on.
    fn fill(&self, config: &mut Config) {
        config.election_prefix.clone_from(&self.election_prefix);
        config.leader_ttl = self.leader_ttl;
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
            .map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        config.max_connection_age = self.max_connection_age;
        config.report_node = !self.no_report_node;
        config.grace = self.grace;
        if let Some(threads) = self.threads {
            config.threads = threads.into();
        }
    }
}

/// Who is told of the leases, if anybody is.
fn witness(serve: &Serve) -> Result<Option<Arc<dyn LeaseWitness>>, Box<dyn std::error::Error>> {
    if serve.store.embedded.is_some() {
        return Ok(None);
    }
    let file = serve.runtime_dir.as_deref().map(LeaseFile::begin).transpose()?;
    if !serve.report_leases && file.is_none() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Witness::new(serve.report_leases, file)?)))
}

/// An embedded store has one instance, which would lead at once: so what is there is looked at first.
fn check_embedded(store: &StoreArgs, credentials: &CredentialsWatch) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = store.existing()?;
    Ok(runtime.block_on(check_state(&*store, credentials))?)
}

/// Whose store it is; before there is a cluster, anybody's.
fn embedded_node(store: &StoreArgs) -> Result<String, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = store.store()?;
    runtime.block_on(check_whole(&*store))?;
    let only = runtime.block_on(only_consensus_member(&*store))?;
    if only.is_none() {
        info!("there is no cluster here yet: stop this instance, run `curator bootstrap`, and start it again");
    }
    Ok(only.unwrap_or_else(|| "node-1".to_owned()))
}

fn run(service: Service, reload: Reload, has_parent: bool) -> Result<(), Box<dyn std::error::Error>> {
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
                manager.during_reload(reload.again()).await;
            }
            std::future::pending::<()>().await;
        });
        let mut running = std::pin::pin!(service.run(cancel.clone()));
        let orphaned = async {
            match has_parent {
                true => parent_gone().await,
                false => std::future::pending().await,
            }
        };
        // One loop for all, so that what is told to the service manager comes from where the instance is watched.
        let name = tokio::select! {
            ended = &mut running => return Ok(ended?),
            () = &mut following => "a failure to follow the instance",
            () = &mut reloading => "a failure to hear SIGHUP",
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = orphaned => "the end of the parent",
        };
        info!(signal = name, "ending: handing over first; once more to end at once");
        cancel.cancel();
        manager.stopping().await;
        tokio::select! {
            ended = &mut running => Ok(ended?),
            () = &mut following => std::future::pending().await,
            _ = terminate.recv() => Err("ended at once by a second signal".into()),
            _ = interrupt.recv() => Err("ended at once by a second signal".into()),
        }
    });
    // What still reads a file or tells the service manager is not waited for.
    runtime.shutdown_timeout(LAST);
    ended
}

/// A core would have keys in it. Whoever wants one nevertheless raises the limit of the process that runs.
pub(crate) fn leave_no_core() {
    let limit = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    if let Err(error) = setrlimit(Resource::Core, limit) {
        eprintln!("warning: a crash may leave a core with keys in it: {error}");
    }
}

/// A connection takes a file descriptor, and the usual limit of 1,024 is less than a cluster has nodes.
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
        warn!(%error, "cannot raise the limit of open files; connections beyond it are refused");
    }
}
