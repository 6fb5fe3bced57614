//! `curator serve`: runs an instance.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use curator_service::{Config, Service};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::LogFormat;
use crate::options::{StoreArgs, parse_duration, parse_listen};

/// How an instance runs.
#[derive(Args)]
pub(crate) struct Serve {
    /// The id of the node that this instance runs on, such as metropolis-<32 hex digits>; one instance per id.
    #[arg(long, env = "CURATOR_NODE_ID", value_name = "ID")]
    node_id: String,

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

    /// The addresses to listen on, with commas between them or the flag repeated; without TLS, loopback ones.
    #[arg(
        long,
        env = "CURATOR_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7835",
        value_parser = parse_listen
    )]
    listen: Vec<SocketAddr>,

    /// The address that others reach this instance at, as host:port [default: the first one it listens on].
    #[arg(long, env = "CURATOR_ADVERTISE", value_name = "ADDRESS")]
    advertise: Option<String>,

    /// How long a call may wait while no leader is known, within its own deadline [default: two thirds of the TTL, at most 10s].
    #[arg(long, env = "CURATOR_HOLD_CAP", value_name = "DURATION", value_parser = parse_duration)]
    hold_cap: Option<Duration>,

    /// How many calls may wait for a leader at a time; any more are refused.
    #[arg(long, env = "CURATOR_HOLD_LIMIT", value_name = "CALLS", default_value_t = 4_096)]
    hold_limit: usize,

    /// How many threads serve connections [default: one for each core].
    #[arg(long, env = "CURATOR_THREADS", value_name = "THREADS", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,

    /// How long an instance that is told to stop may take to hand over its leadership and to end its calls.
    #[arg(long, env = "CURATOR_GRACE", value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    grace: Duration,

    /// How log lines look. They go to standard error; RUST_LOG chooses which.
    #[arg(long, env = "CURATOR_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

impl Serve {
    /// Runs until told to end; the exit code says how it ended.
    pub(crate) fn run(&self) -> ExitCode {
        raise_file_limit();
        let service = match prepare(self) {
            Ok(service) => service,
            Err(wrong) => return crate::wrong_arguments(&*wrong, "serve"),
        };
        match run(service) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                error!(error = %failure, "ended by a failure");
                ExitCode::FAILURE
            }
        }
    }
}

fn prepare(serve: &Serve) -> Result<Service, Box<dyn std::error::Error>> {
    let consensus = serve.store.consensus()?;
    let mut config = Config::new(&serve.node_id, consensus);
    config.election_prefix.clone_from(&serve.election_prefix);
    config.leader_ttl = serve.leader_ttl;
    config.listen.clone_from(&serve.listen);
    config.advertise.clone_from(&serve.advertise);
    config.hold_cap = serve.hold_cap;
    config.hold_limit = serve.hold_limit;
    config.grace = serve.grace;
    if let Some(threads) = serve.threads {
        config.threads = threads.into();
    }
    Ok(Service::new(config)?)
}

fn run(service: Service) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut running = std::pin::pin!(service.run(cancel.clone()));
        let name = tokio::select! {
            ended = &mut running => return Ok(ended?),
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "ending: handing over first; once more to end at once");
        cancel.cancel();
        tokio::select! {
            ended = &mut running => Ok(ended?),
            _ = terminate.recv() => Err("ended at once by a second signal".into()),
            _ = interrupt.recv() => Err("ended at once by a second signal".into()),
        }
    })
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
