//! `cargo xtask fuzz`: sequences of calls by all kinds of parties, from seeds, beside those who mean well.
use curator_harness::error::{Error, Result};
use curator_harness::step;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::tools::protoc;

/// The command.
pub const COMMAND: Command = Command {
    name: "fuzz",
    summary: "makes calls at random, as any party, beside callers who mean well",
    help: "Usage: cargo xtask fuzz [--seconds 60] [--from S]

A leader on the model of etcd; in each run any party makes any call, with messages that are good, bent or nonsense, several at a
time, and gives some up. Beside them an owner and a node mean well: they must be answered, and find what they were told is there.
Nothing may panic, and all that is stored must be within its bounds. A run is a function of its seed; one that fails is named.

  --seconds N  how long (default 60); a night is 28800
  --from S     the first seed (default 12: those before it are in the ordinary tests)",
    run,
};

/// As much as belongs to all checks, in seconds.
const IN_CHECKS: u64 = 30;

fn run(mut args: Args) -> Result<()> {
    let mut number = |flag: &'static str, default: u64| match args.value(flag)? {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| Error::usage(format!("`{flag} {text}` is no number"))),
    };
    let (seconds, from) = (number("--seconds", 60)?, number("--from", 12)?);
    args.finish(0)?;
    protoc::ensure()?;
    fuzz(seconds, from)
}

/// A little of it.
///
/// # Errors
/// When a seed finds something.
pub fn run_tests() -> Result<()> {
    fuzz(IN_CHECKS, 12)
}

fn fuzz(seconds: u64, from: u64) -> Result<()> {
    let test = "leader::tests::surface::no_sequence_of_calls_harms_those_who_mean_well";
    let mut command = cargo(&["test", "--package", "curator-service", "--all-features", "--lib"]);
    command.args(["--", "--exact", "--nocapture", test]);
    command.env("CURATOR_FUZZ_SECONDS", seconds.to_string());
    command.env("CURATOR_FUZZ_SEED", from.to_string());
    step::run(&format!("calls at random, for {seconds} s"), command)
}
