//! The command line: one file for each command, and the arguments that several commands share.

mod archive;
mod bootstrap;
mod config;
pub(crate) mod options;
mod plaintext;
mod register;
mod release;
pub(crate) mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

use archive::{Export, Import, Inspect};
use bootstrap::Bootstrap;
use clap::{CommandFactory, Parser, Subcommand};
use config::ConfigCommand;
use register::Register;
use release::Release;
use serve::Serve;

use crate::config::defaults;
use crate::config::merge::{ConfigError, ResolvedConfig, Settings, resolve};
use crate::process::logging::{self, Filter};

/// Curator: the leader-elected service that manages a cluster.
///
/// Exit codes: 0 success, 1 failed, 2 invalid arguments.
#[derive(Parser)]
#[command(name = "curator", version = curator_version::VERSION, about, long_about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an instance until SIGTERM or ctrl-c. Then it transfers the leadership and exits.
    Serve(Box<Serve>),
    /// Creates a cluster: its first node, owner, configuration and certificate authorities.
    ///
    /// Everything is written in one transaction. If the store has a cluster already, nothing is changed. No leader is
    /// needed.
    Bootstrap(Box<Bootstrap>),
    /// Adds this machine to an existing cluster as a node: registers it, waits for approval, and fetches its
    /// certificate.
    ///
    /// The command can be interrupted and run again; it continues from the node's current state.
    Register(Box<Register>),
    /// Exports a snapshot of the whole state to a file, for import into another store.
    Export(Box<Export>),
    /// Imports an exported state into an empty store that no Curator uses. After an interruption, continue with
    /// --resume, or empty the store and start again.
    Import(Box<Import>),
    /// Verifies an exported file and prints its metadata: the cluster, the time and revision of the export, and the
    /// number of nodes.
    Inspect(Inspect),
    /// Revokes the leases of a dead instance, so that another instance can lead at once. For systemd's ExecStopPost=,
    /// with the etcd arguments and the runtime directory of the instance. Fails while the instance is alive.
    Release(Box<Release>),
    /// Checks and prints the configuration of `curator serve`: the file, the environment and the flags together.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Runs a command line; returns its exit code.
pub(crate) fn run(argv: Vec<OsString>) -> ExitCode {
    let ResolvedConfig { cli, settings } = match resolve::<Cli>(&argv, &command()) {
        Ok(resolved) => resolved,
        Err(error) => return error.exit(),
    };
    serve::disable_core_dumps();
    match cli.command {
        Command::Serve(serve) => serve.run(argv, settings),
        Command::Config(config) => config.run(&settings),
        Command::Bootstrap(bootstrap) => with_log(|| bootstrap.run()),
        Command::Register(register) => with_log(|| register.run()),
        Command::Export(export) => with_log(|| export.run()),
        Command::Import(import) => with_log(|| import.run()),
        Command::Inspect(inspect) => with_log(|| inspect.run()),
        Command::Release(release) => with_log(|| release.run()),
    }
}

/// The declaration of the command line, with all defaults in the help.
pub(crate) fn command() -> clap::Command {
    defaults::describe(Cli::command())
}

/// Reads the configuration of a running instance again, from the same command line.
fn reread(argv: &[OsString]) -> Result<(Filter, Settings), String> {
    let resolved: Result<ResolvedConfig<Cli>, ConfigError> = resolve(argv, &command());
    let ResolvedConfig { cli, settings } = resolved.map_err(|error| error.to_string())?;
    let Command::Serve(serve) = cli.command else {
        return Err("`config` file now selects a different subcommand".to_owned());
    };
    serve.check().map_err(|error| error.to_string())?;
    Ok((serve.log_filter, settings))
}

/// Runs a command other than `serve`, with a log.
fn with_log(run: impl FnOnce() -> ExitCode) -> ExitCode {
    logging::init_plain();
    run()
}

/// Reports invalid arguments of a command; returns the exit code.
fn usage_error(error: &dyn std::error::Error, command: &str) -> ExitCode {
    eprintln!("error: {error}\n\nFor more information, try 'curator {command} --help'.");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
