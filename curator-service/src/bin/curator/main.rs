//! The `curator` binary: arguments, logging, signals and exit codes; nothing else.

mod bootstrap;
mod lease_file;
mod observe;
mod options;
mod parent;
mod register;
mod release;
mod serve;
mod traces;
mod transfer;
mod witness;

use std::io::IsTerminal;
use std::process::ExitCode;

use bootstrap::Bootstrap;
use clap::{Parser, Subcommand, ValueEnum};
use register::Register;
use release::Release;
use serve::Serve;
use traces::Traces;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, registry};
use transfer::{Export, Import};

/// The Curator: the leader-elected service that manages a cluster.
///
/// Exit codes: 0 ended as asked, 1 failed while running, 2 wrong arguments.
#[derive(Parser)]
#[command(name = "curator", version = curator_service::VERSION, about, long_about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an instance until SIGTERM or ctrl-c, on which it resigns first.
    Serve(Box<Serve>),
    /// Makes a cluster where there is none: its first node, owner, configuration and certificate authorities.
    ///
    /// All at once or nothing; where there is a cluster, nothing is changed. Nobody needs to lead meanwhile.
    Bootstrap(Box<Bootstrap>),
    /// Makes this machine a node of a cluster that there is: registers it, waits until it is approved, and gets its certificate.
    ///
    /// It may be interrupted and run again until it has the certificate.
    Register(Box<Register>),
    /// Writes the whole state into a file, as it is at one moment, to be moved to another store.
    Export(Box<Export>),
    /// Puts an exported state into an empty store that no Curator uses. Should it be interrupted, empty the store and begin anew.
    Import(Box<Import>),
    /// Gives the leases of a dead instance back, so that nobody waits for them: for systemd's ExecStopPost=, with the same
    /// arguments for etcd and the same runtime directory. While the instance lives, it is refused.
    Release(Box<Release>),
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => {
            // Until the end, which waits for the last spans.
            let traces = match serve.traces() {
                Ok(traces) => traces,
                Err(wrong) => return wrong_arguments(&*wrong, "serve"),
            };
            init_logging(serve.log_format, &traces);
            serve.run()
        }
        Command::Bootstrap(bootstrap) => {
            init_logging(LogFormat::Text, &Traces::default());
            bootstrap.run()
        }
        Command::Register(register) => {
            init_logging(LogFormat::Text, &Traces::default());
            register.run()
        }
        Command::Export(export) => {
            init_logging(LogFormat::Text, &Traces::default());
            export.run()
        }
        Command::Import(import) => {
            init_logging(LogFormat::Text, &Traces::default());
            import.run()
        }
        Command::Release(release) => {
            init_logging(LogFormat::Text, &Traces::default());
            release.run()
        }
    }
}

/// Says what is wrong with the arguments of a command.
fn wrong_arguments(wrong: &dyn std::error::Error, command: &str) -> ExitCode {
    eprintln!("error: {wrong}\n\nFor more information, try 'curator {command} --help'.");
    ExitCode::from(2)
}

fn init_logging(format: LogFormat, traces: &Traces) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    subscriber(format, filter, traces).init();
}

fn subscriber(format: LogFormat, filter: EnvFilter, traces: &Traces) -> impl Subscriber + Send + Sync + use<> {
    let logs = tracing_subscriber::fmt::layer()
        // Whoever reads the log may be gone before us; that must not end us, as its own complaint on standard error would.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let logs = match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    registry().with(traces.layer()).with(logs.with_filter(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// What the log does not want is not made: each call would pay for it.
    #[test]
    fn as_a_rule_calls_have_no_spans() {
        use tracing::subscriber::with_default;

        let logs = |filter: &str| subscriber(LogFormat::Json, EnvFilter::new(filter), &Traces::default());
        let info = logs("info");
        assert_eq!(info.max_level_hint(), Some(tracing::level_filters::LevelFilter::INFO));
        let span = || tracing::debug_span!(target: "curator::call", "call");
        with_default(info, || assert!(span().is_disabled()));
        with_default(logs("info,curator::call=debug"), || assert!(!span().is_disabled()));
    }
}
