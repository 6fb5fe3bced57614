//! `cargo xtask sim`: the election, the fenced store and the leader's state in simulated time, with faults from seeds.
use std::process::Command as Process;

use curator_harness::error::{Error, Result};
use curator_harness::step;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::tools::protoc;

/// The command.
pub const COMMAND: Command = Command {
    name: "sim",
    summary: "runs the simulation: thousands of seeds of faults, or one of them, or deliberate bugs",
    help: "Usage: cargo xtask sim [--seeds 20000] [--from 0] [--threads N]
       cargo xtask sim --seed S [--calls] [--keep LIST] [--nodes N] [--clients N] [--faulty MS]
       cargo xtask sim --bugs [--seeds 20000] [--from 0]

Several instances, each with its elector and in each term its state, on the model of etcd, with clients and with faults drawn
from the seed. What must hold is looked at each simulated 10 ms and, for what clients were told, at the end. A seed runs the
same way each time. If one fails, the rule that it broke is printed, the command that shows it again, and the smallest part of
its faults that breaks the same rule.

  --seeds N     how many seeds (default 20000); with --bugs, the most for each bug
  --from S      the first of them (default 0)
  --threads N   how many at a time (default: one for each core)
  --seed S      runs this one alone, and prints what happens in it
  --calls       with --seed: tells each call of a client as well
  --keep LIST   with --seed: only the faults with these numbers, with commas; or `none`
  --nodes N, --clients N, --faulty MS
                with --seed: as many instances and clients, faults for as long
  --bug NAME    with this deliberate bug
  --bugs        looks for each deliberate bug in turn, and prints by which rule it was found, and in how many seeds",
    run,
};

fn run(mut args: Args) -> Result<()> {
    let mut words = Vec::new();
    for flag in [
        "--seeds",
        "--from",
        "--threads",
        "--seed",
        "--keep",
        "--nodes",
        "--clients",
        "--faulty",
        "--bug",
    ] {
        if let Some(value) = args.value(flag)? {
            let plain = matches!(flag, "--keep" | "--bug");
            if !plain && value.parse::<u64>().is_err() {
                return Err(Error::usage(format!("`{flag} {value}` is no number")));
            }
            words.extend([flag.to_owned(), value]);
        }
    }
    for flag in ["--calls", "--bugs"] {
        if args.switch(flag)? {
            words.push(flag.to_owned());
        }
    }
    args.finish(0)?;
    protoc::ensure()?;
    step::run("simulation", simulation(&words))
}

/// As many seeds as belong to all tests, and whether as many find each deliberate bug.
///
/// # Errors
/// When one of them breaks a rule, or a bug is not found.
pub fn run_tests() -> Result<()> {
    let seeds = ["--seeds".to_owned(), "2000".to_owned()];
    step::run("simulation", simulation(&seeds))?;
    let bugs = [&["--bugs".to_owned()][..], &seeds].concat();
    step::run("simulation of deliberate bugs", simulation(&bugs))
}

/// Built apart from all else: faster, and so that tokio takes its own choices from the seed, which it calls unstable.
fn simulation(words: &[String]) -> Process {
    let mut command = cargo(&[
        "run",
        "--profile",
        "sim",
        "--target-dir",
        "target/sim",
        "--package",
        "curator-service",
        "--features",
        "simulation",
        "--bin",
        "curator-sim",
        "--",
    ]);
    command.args(words).env("RUSTFLAGS", "--cfg tokio_unstable");
    command
}
