//! The `curator` binary: arguments, logging, signals and exit codes; nothing else.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use curator_election::namespace::Namespace;
use curator_service::{Config, EtcdConsensus, Service};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

/// The Curator: the leader-elected service that manages a cluster.
///
/// Exit codes: 0 ended as asked, 1 failed while running, 2 wrong arguments.
#[derive(Parser)]
#[command(name = "curator", version, about, long_about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an instance until SIGTERM or ctrl-c, on which it resigns first.
    Serve(Serve),
}

#[derive(Args)]
struct Serve {
    /// The id of the node that this instance runs on, such as metropolis-<32 hex digits>; one instance per id.
    #[arg(long, env = "CURATOR_NODE_ID", value_name = "ID")]
    node_id: String,

    /// The client URLs of etcd's members, with commas between them.
    #[arg(
        long,
        env = "CURATOR_ETCD_ENDPOINTS",
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    etcd_endpoints: Vec<String>,

    /// The namespace of all keys: parts with colons between them.
    #[arg(
        long,
        env = "CURATOR_ETCD_NAMESPACE",
        value_name = "PARTS",
        default_value = "namespaced:curator"
    )]
    etcd_namespace: Namespace,

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
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The longest TTL that etcd takes, in seconds.
const LONGEST_TTL: u64 = 9_000_000_000;

fn parse_duration(text: &str) -> Result<Duration, String> {
    let right = "give a number and a unit out of ms, s, m and h, such as 500ms, 10s or 2m";
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(|| format!("the unit is missing: {right}"))?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| right.to_owned())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("there is no unit {unit:?}: {right}")),
    };
    match number.checked_mul(milliseconds) {
        Some(total) if total / 1_000 <= LONGEST_TTL => Ok(Duration::from_millis(total)),
        _ => Err(format!("that is too long: at most {LONGEST_TTL}s")),
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "give an IP address and a port, such as 127.0.0.1:7835 or [::1]:7835".to_owned())
}

fn main() -> ExitCode {
    let Command::Serve(serve) = Cli::parse().command;
    init_logging(serve.log_format);
    raise_file_limit();
    let service = match prepare(&serve) {
        Ok(service) => service,
        Err(wrong) => {
            eprintln!("error: {wrong}\n\nFor more information, try 'curator serve --help'.");
            return ExitCode::from(2);
        }
    };
    match run(service) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!(error = %failure, "ended by a failure");
            ExitCode::FAILURE
        }
    }
}

fn prepare(serve: &Serve) -> Result<Service, Box<dyn std::error::Error>> {
    let consensus = EtcdConsensus::new(&serve.etcd_endpoints, serve.etcd_namespace.clone())?;
    let mut config = Config::new(&serve.node_id, Arc::new(consensus));
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

fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
