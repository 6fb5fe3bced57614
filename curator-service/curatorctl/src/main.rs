//! The `curatorctl` binary: manages a cluster through any of its instances.

mod bootstrap;
mod cert;
mod configuration;
mod confirm;
mod connect;
mod context;
mod error;
mod flags;
mod generate;
mod leader;
mod log_level;
mod nodes;
mod output;
mod settings;
mod status;
mod step_down;
mod text;
mod ticket;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use connect::Cluster;
use error::Failure;
use flags::Flags;
use settings::Settings;

/// Manages a cluster through any of its instances.
///
/// Requests go to the first endpoint that responds, and from there to the leader. Save common flags in a context: see
/// `curatorctl context`.
///
/// Exit codes: 0 success, 1 failed or refused, 2 invalid arguments, 3 not found, 4 unavailable or timed out, 5
/// permission denied.
#[derive(Parser)]
#[command(name = "curatorctl", version = curator_version::VERSION, about, long_about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    flags: Flags,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows all instances: role, term, leader, and the health of etcd as each instance sees it.
    #[command(after_help = "Examples:\n  curatorctl status --watch")]
    Status(status::Args),
    /// Prints the leader.
    #[command(after_help = "Examples:\n  curatorctl leader --follow")]
    Leader(leader::Args),
    /// Transfers the leadership to another instance. No call fails.
    #[command(after_help = "Examples:\n  curatorctl step-down --to metropolis-0123456789abcdef0123456789abcdef")]
    StepDown(step_down::Args),
    /// Prints or changes the log filter of the given instances. Each instance has its own filter.
    #[command(after_help = "Examples:\n  curatorctl log-level info,curator_election=debug --endpoint 10.0.0.1:7835")]
    LogLevel(log_level::Args),
    /// Lists and changes nodes.
    #[command(after_help = "Examples:\n  curatorctl nodes pending\n  curatorctl nodes list -l rack=r1")]
    #[command(subcommand)]
    Nodes(nodes::Command),
    /// Prints or rotates the register ticket, which new nodes register with. The ticket is a secret.
    #[command(after_help = "Examples:\n  curatorctl ticket\n  curatorctl ticket rotate --yes")]
    Ticket(ticket::Args),
    /// Prints and changes the cluster configuration.
    #[command(after_help = "Examples:\n  curatorctl config get")]
    #[command(subcommand)]
    Config(configuration::Command),
    /// Explains how to create a cluster: with `curator bootstrap`.
    #[command(after_help = "Examples:\n  curatorctl bootstrap")]
    Bootstrap,
    /// Fetches, renews, shows and verifies certificates.
    #[command(after_help = "Examples:\n  curatorctl cert verify owner.pem --ca ca.pem")]
    #[command(subcommand)]
    Cert(cert::Command),
    /// Manages contexts: saved flags for a cluster.
    #[command(
        after_help = "Examples:\n  curatorctl context set home --endpoint 10.0.0.1:7835 --ca ca.pem\n  curatorctl context list"
    )]
    #[command(subcommand)]
    Context(context::Command),
    /// Prints shell completions.
    #[command(after_help = "Examples:\n  curatorctl completions bash")]
    Completions(generate::Completions),
    /// Writes the manual pages to a directory.
    #[command(hide = true)]
    Man(generate::Man),
}

fn main() -> ExitCode {
    let Cli { flags, command } = Cli::parse();
    match run(&flags, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn run(flags: &Flags, command: Command) -> Result<(), Failure> {
    // These commands need no endpoint.
    match command {
        Command::Bootstrap => return bootstrap::run(),
        Command::Context(command) => return context::run(flags, command),
        Command::Completions(completions) => return completions.run(),
        Command::Man(man) => return man.run(),
        Command::Cert(command) if command.is_local() => return command.run_locally(flags),
        _ => {}
    }
    let cluster = Cluster::new(Settings::resolve(flags)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Status(args) => status::run(&cluster, &args).await,
            Command::Leader(args) => leader::run(&cluster, &args).await,
            Command::StepDown(args) => step_down::run(&cluster, &args).await,
            Command::LogLevel(args) => log_level::run(&cluster, &args).await,
            Command::Nodes(command) => nodes::run(&cluster, command).await,
            Command::Ticket(args) => ticket::run(&cluster, &args).await,
            Command::Config(command) => configuration::run(&cluster, command).await,
            Command::Cert(command) => cert::run(&cluster, command).await,
            Command::Bootstrap | Command::Context(_) | Command::Completions(_) | Command::Man(_) => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// The help of each command has examples that parse, and lists its own flags before the global ones.
    #[test]
    fn help_has_examples_and_the_own_flags_first() {
        use clap::CommandFactory;
        for name in Cli::command()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
        {
            if name == "man" {
                continue;
            }
            let Err(help) = Cli::try_parse_from(["curatorctl", &name, "--help"]) else {
                panic!("{name} has no help")
            };
            let help = help.to_string();
            let examples = help
                .split_once("Examples:\n")
                .map(|(_, examples)| examples)
                .unwrap_or_default();
            assert!(!examples.is_empty(), "{name}: {help}");
            for example in examples.lines() {
                let parsed = Cli::try_parse_from(example.split_whitespace());
                assert!(parsed.is_ok(), "{example}");
            }
            let (own, all) = (help.find("\nOptions:"), help.find("\nOptions of all commands:"));
            assert!(own < all, "{help}");
        }
    }

    #[test]
    fn flags_may_stand_anywhere() {
        for words in [
            ["curatorctl", "--timeout", "3s", "nodes", "list"],
            ["curatorctl", "nodes", "list", "--timeout", "3s"],
        ] {
            let cli = Cli::try_parse_from(words).expect("good");
            assert_eq!(cli.flags.timeout, Some(std::time::Duration::from_secs(3)));
        }
    }
}
