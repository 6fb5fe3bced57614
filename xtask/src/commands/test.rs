//! `cargo xtask test`: all tests of the workspace.
use curator_harness::error::Result;
use curator_harness::step;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::commands::{examples, integration, sim, smoke};
use crate::tools::etcd::Want;
use crate::tools::{optional, protoc};

/// The command.
pub const COMMAND: Command = Command {
    name: "test",
    summary: "runs all tests: unit, documentation, simulation, integration",
    help: "Usage: cargo xtask test [--etcd WHICH]

Runs the unit tests of the whole workspace, the examples and those in its documentation, 2,000 seeds of the simulation, each
command of an optimized build, and the integration tests.
What is missing is brought as by `cargo xtask setup`.

  --etcd WHICH  the version to test against, as in `cargo xtask integration`; by default the oldest and the newest that can
                be had",
    run,
};

fn run(mut args: Args) -> Result<()> {
    let want = match args.value("--etcd")? {
        None => Want::Ends,
        text => Want::read(text.as_deref())?,
    };
    args.finish(0)?;
    run_tests(&want)
}

/// Runs them.
///
/// # Errors
/// With the first failure.
pub fn run_tests(want: &Want) -> Result<()> {
    protoc::ensure()?;
    let units = if optional::has_nextest() {
        cargo(&["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"])
    } else {
        cargo(&[
            "test",
            "--workspace",
            "--all-features",
            "--all-targets",
            "--no-fail-fast",
        ])
    };
    step::run("unit tests", units)?;
    step::run(
        "tests in the documentation",
        cargo(&["test", "--workspace", "--all-features", "--doc"]),
    )?;
    examples::run_tests()?;
    sim::run_tests()?;
    smoke::run_tests()?;
    integration::run_tests(want, 1, None)
}
