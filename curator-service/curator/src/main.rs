//! The `curator` binary: arguments, logging, signals and exit codes; nothing else.

mod cli;
mod config;
mod process;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cli::bootstrap::Bootstrap;
use cli::config::ConfigCommand;
use cli::register::Register;
use cli::release::Release;
use cli::serve::Serve;
use cli::transfer::{Export, Import, Inspect};
use config::merge::{Configured, configured};

/// Gives back what a storm of calls has taken, by threads of its own, within seconds and while nothing happens. glibc keeps it: it
/// can return only the end of a heap, and something that lives is always there. mimalloc returns pages when a thread next
/// allocates, so that a process that is quiet again keeps most of them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The Curator: the leader-elected service that manages a cluster.
///
/// Exit codes: 0 ended as asked, 1 failed while running, 2 wrong arguments.
#[derive(Parser)]
#[command(name = "curator", version = curator_version::VERSION, about, long_about, disable_help_subcommand = true)]
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
    /// It may be interrupted and run again until it has the certificate: it goes on from where the node is.
    Register(Box<Register>),
    /// Writes the whole state into a file, as it is at one moment, to be moved to another store.
    Export(Box<Export>),
    /// Puts an exported state into an empty store that no Curator uses. Should it be interrupted, go on with --resume, or
    /// empty the store and begin anew.
    Import(Box<Import>),
    /// Shows what a file that was exported says of itself, and whether it is whole: of which cluster it is, when it was
    /// made, at which revision, and how many nodes are in it.
    Inspect(Inspect),
    /// Gives the leases of a dead instance back, so that nobody waits for them: for systemd's ExecStopPost=, with the same
    /// arguments for etcd and the same runtime directory. While the instance lives, it is refused.
    Release(Box<Release>),
    /// Checks and shows what `curator serve` would be told by the file, the environment and the flags.
    #[command(subcommand)]
    Config(ConfigCommand),
}

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let Configured { cli, settings } = match configured(&argv) {
        Ok(configured) => configured,
        Err(wrong) => return wrong.exit(),
    };
    cli::serve::leave_no_core();
    match cli.command {
        Command::Serve(serve) => serve.run(argv, settings),
        Command::Config(config) => config.run(&settings),
        Command::Bootstrap(bootstrap) => logged(|| bootstrap.run()),
        Command::Register(register) => logged(|| register.run()),
        Command::Export(export) => logged(|| export.run()),
        Command::Import(import) => logged(|| import.run()),
        Command::Inspect(inspect) => logged(|| inspect.run()),
        Command::Release(release) => logged(|| release.run()),
    }
}

/// Runs a command that ends by itself, with a log.
fn logged(run: impl FnOnce() -> ExitCode) -> ExitCode {
    process::logging::init_plain();
    run()
}

/// Says what is wrong with the arguments of a command.
fn wrong_arguments(wrong: &dyn std::error::Error, command: &str) -> ExitCode {
    eprintln!("error: {wrong}\n\nFor more information, try 'curator {command} --help'.");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
