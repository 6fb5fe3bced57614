//! The whole service embedded in another process, with a leader's service of its own.
//!
//! ```console
//! $ cargo run -p curator-loads --bin embed-server -- --node-id node-1 --etcd-endpoints http://127.0.0.1:2379
//! ```
//!
//! Start several, each with its own `--node-id` and `--listen`: any of them answers `Echo` calls in the name of the
//! leader. With `--record FILE`, what the leader runs is written there: a line for each call, with its id and the
//! term's revision.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use curator_echo::EchoService;
use curator_election::namespace::Namespace;
use curator_service::{
    Config, Consensus, CredentialsWatch, EmbeddedConsensus, EtcdConsensus, LeaderServices, Service, TermContext,
    TestIdentity, wall_clock,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Arguments {
    /// For the sake of the `curator` binary's command line.
    #[arg(value_parser = ["serve"])]
    command: Option<String>,
    #[arg(long)]
    node_id: String,
    /// Without TLS, and with callers who are believed whatever they say they are.
    #[arg(long, required_unless_present = "credentials")]
    insecure_loopback_only: bool,
    /// The directory of the node's credentials.
    #[arg(long)]
    credentials: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// Instead of etcd, a directory.
    #[arg(long)]
    embedded: Option<PathBuf>,
    #[arg(long, default_value = "namespaced:curator")]
    etcd_namespace: Namespace,
    #[arg(long, default_value = "/leader")]
    election_prefix: String,
    /// In milliseconds, or seconds with an s at the end.
    #[arg(long, default_value = "10s", value_parser = duration)]
    leader_ttl: Duration,
    #[arg(long, default_value = "127.0.0.1:7835")]
    listen: Vec<SocketAddr>,
    #[arg(long)]
    advertise: Option<String>,
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    log_format: String,
    /// How long the instance may be unable to serve before it stops leading.
    #[arg(long, value_parser = duration)]
    stuck_after: Option<Duration>,
    /// A call with this id blocks the thread that it is served on, for ever: what a service should never do.
    #[arg(long)]
    block_on: Option<u64>,
    /// Where to write what the leader runs.
    #[arg(long)]
    record: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.strip_suffix('s').filter(|rest| !rest.ends_with('m'));
    let (number, unit) = match seconds {
        Some(seconds) => (seconds, 1_000),
        None => (text.trim_end_matches("ms"), 1),
    };
    let number: u64 = number.parse().map_err(|_| "give 500ms or 10s")?;
    Ok(Duration::from_millis(number.saturating_mul(unit)))
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let logs = tracing_subscriber::fmt().with_writer(std::io::stderr);
    match arguments.log_format.as_str() {
        "json" => logs.json().flatten_event(true).init(),
        _ => logs.init(),
    }
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let namespace = arguments.etcd_namespace;
    let consensus: Arc<dyn Consensus> = match &arguments.embedded {
        Some(directory) => Arc::new(EmbeddedConsensus::open(directory, namespace, &arguments.node_id)?),
        None => Arc::new(EtcdConsensus::new(&arguments.etcd_endpoints, namespace)?),
    };
    let mut config = Config::new(&arguments.node_id, consensus);
    config.election_prefix = arguments.election_prefix;
    config.leader_ttl = arguments.leader_ttl;
    config.listen = arguments.listen;
    config.advertise = arguments.advertise;
    config.stuck_after = arguments.stuck_after;

    match arguments.credentials {
        Some(directory) => config.credentials = Some(CredentialsWatch::new(directory, wall_clock)?),
        // For tests: callers are believed whatever they say they are.
        None => config.authenticator = Some(Arc::new(TestIdentity)),
    }
    // Made anew in each term that this process leads in.
    let record = arguments.record.map(open).transpose()?;
    let (node_id, block_on) = (arguments.node_id, arguments.block_on);
    let echo = move |term: &TermContext| {
        let revision = term.term().lock_revision().0;
        let record = record.clone();
        let service = EchoService::new(node_id.clone(), revision).recording(Arc::new(move |id| {
            // One write for one line: lines of several processes and threads do not mix.
            if let Some(file) = &record
                && let Err(error) = (&**file).write_all(format!("{id} {revision}\n").as_bytes())
            {
                tracing::error!(%error, id, "a call is missing in the record");
            }
            while block_on == Some(id) {
                std::thread::park();
            }
        }));
        Ok(service.into_server())
    };
    // Clients of the tests come without certificates.
    config.leader_services = LeaderServices::new()
        .describe(curator_echo::FILE_DESCRIPTOR_SET)?
        .add_public(echo)?;

    let cancel = CancellationToken::new();
    let mut running = tokio::spawn(Service::new(config)?.run(cancel.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        // It ends by itself when its store has stopped.
        ended = &mut running => return Ok(ended??),
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    cancel.cancel();
    running.await??;
    Ok(())
}

fn open(path: PathBuf) -> std::io::Result<Arc<File>> {
    Ok(Arc::new(OpenOptions::new().create(true).append(true).open(path)?))
}
