//! The table of commands, and the way from a command line to one of them.
use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::ExitCode;

use curator_harness::error::{Error, Result};
use curator_harness::step;

use crate::args::Args;
use crate::command::Command;
use crate::commands::{
    api, bench, chaos, ci, examples, fuzz, integration, outside, package, setup, sim, smoke, test, up, upgrade,
};

/// All commands, in the order in which a newcomer meets them.
pub const COMMANDS: &[Command] = &[
    setup::COMMAND,
    up::COMMAND,
    test::COMMAND,
    examples::COMMAND,
    fuzz::COMMAND,
    sim::COMMAND,
    smoke::COMMAND,
    integration::COMMAND,
    upgrade::COMMAND,
    chaos::COMMAND,
    api::COMMAND,
    package::COMMAND,
    outside::COMMAND,
    bench::COMMAND,
    ci::COMMAND,
];

/// Runs what the arguments ask for. Exit code 0: done; 1: it failed; 2: the command line was wrong.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    match dispatch(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::from(if error.is_usage() { 2 } else { 1 })
        }
    }
}

fn dispatch(words: impl Iterator<Item = OsString>) -> Result<()> {
    let mut words = words
        .map(|word| {
            word.into_string()
                .map_err(|w| Error::usage(format!("argument {w:?} is not text in UTF-8")))
        })
        .collect::<Result<Vec<_>>>()?;
    if words.is_empty() {
        return Err(Error::usage(format!("no command given\n\n{}", overview())));
    }
    let first = words.remove(0);
    if matches!(first.as_str(), "help" | "-h" | "--help") {
        let text = match words.first() {
            Some(name) => command(name)?.help.to_owned(),
            None => overview(),
        };
        step::say(format_args!("{text}"));
        return Ok(());
    }
    let command = command(&first)?;
    if words.iter().any(|word| word == "-h" || word == "--help") {
        step::say(format_args!("{}", command.help));
        return Ok(());
    }
    (command.run)(Args::new(command.name, words))
}

fn command(name: &str) -> Result<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name).ok_or_else(|| {
        let names: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
        Error::usage(format!("unknown command `{name}`: there are {}", names.join(", ")))
    })
}

fn overview() -> String {
    let mut text = String::from("Usage: cargo xtask COMMAND [FLAGS]\n\nCommands:\n");
    for command in COMMANDS {
        let _ = writeln!(text, "  {:<12} {}", command.name, command.summary);
    }
    text.push_str("\n`cargo xtask help COMMAND` says more about one.");
    text
}
