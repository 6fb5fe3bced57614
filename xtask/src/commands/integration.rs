//! `cargo xtask integration`: the tests of curator-service against real etcd.
use std::path::Path;

use curator_harness::checkout::tools_dir;
use curator_harness::error::{Context, Result};
use curator_harness::{curator, etcd, step};

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::tools::clients;
use crate::tools::etcd::{Found, Want, select};
use crate::tools::go_candidate::go_candidate;
use crate::tools::optional;
use crate::workspace::{CURATOR, CURATORCTL, EMBED, build_shipped};

/// The command.
pub const COMMAND: Command = Command {
    name: "integration",
    summary: "runs the tests against real etcd clusters and curator processes",
    help: "Usage: cargo xtask integration [--etcd WHICH] [--repeat N] [FILTER]

Builds curator and curatorctl as users get them, optimized and without debug assertions, and runs the integration tests of
curator-service: real etcd members, real curators, faults by signals and proxies. What is missing is brought as by
`cargo xtask setup`.

  --etcd WHICH  the version to test against: a series such as `3.7`, a version such as `3.5.1`, `oldest`, `newest`, both
                `ends`, or `all`. Several are taken in turn; what cannot be had is said. By default the first at hand.
  --repeat N    runs everything N times, until the first failure
  FILTER        only the tests whose name contains this

A test that fails keeps its data and logs, and says where. CURATOR_KEEP_SCRATCH=1 keeps those of all.",
    run,
};

/// The tests' target. A plain `cargo test` passes it over, since it needs what we set up.
pub const TARGET: &[&str] = &["-p", "curator-service", "--test", "integration"];

fn run(mut args: Args) -> Result<()> {
    let want = Want::read(args.value("--etcd")?.as_deref())?;
    let repeat = args.count("--repeat")?.unwrap_or(1);
    let filter = args.finish(1)?.into_iter().next();
    run_tests(&want, repeat, filter.as_deref())
}

/// Runs them against each etcd that is wanted.
///
/// # Errors
/// With the first failure.
pub fn run_tests(want: &Want, repeat: u32, filter: Option<&str>) -> Result<()> {
    run_tests_with(want, repeat, filter, &[])
}

/// The same, with further programs that the tests find by these variables.
///
/// # Errors
/// With the first failure.
pub fn run_tests_with(want: &Want, repeat: u32, filter: Option<&str>, programs: &[(&str, &Path)]) -> Result<()> {
    let found = select(want)?;
    let binary = build_shipped(CURATOR)?;
    let ctl = build_shipped(CURATORCTL)?;
    let embedding = build_shipped(EMBED)?;
    let go = go_candidate()?;
    clients::bring();
    let nextest = optional::has_nextest();
    for round in 1..=repeat {
        for (number, Found { binaries, .. }) in found.iter().enumerate() {
            let version = binaries.version();
            let mut command = if nextest {
                cargo(&[&["nextest", "run"], TARGET, &["--no-fail-fast"]].concat())
            } else {
                cargo(&[&["test"], TARGET].concat())
            };
            if nextest {
                command.args(filter);
            } else {
                // Each test starts half a dozen processes: as many at a time as nextest would start.
                command.arg("--").args(["--test-threads", "2"]).args(filter);
            }
            command.env(curator::BINARY, &binary);
            command.env(curator::CTL, &ctl);
            command.env(curator::EMBEDDING, &embedding);
            if let Some(go) = &go {
                command.env(curator_harness::foreign::GO_CANDIDATE, &go.binary);
            }
            command.env(curator_harness::foreign::CLIENTS, tools_dir());
            command.env(etcd::DIRECTORY, binaries.directory());
            command.env("CURATOR_ETCD_VERSION", version);
            command.envs(programs.iter().copied());
            if round == 1 && number > 0 {
                command.env(etcd::AGAIN, "1");
            }
            let name = match repeat {
                1 => format!("integration tests on etcd {version}"),
                _ => format!("integration tests on etcd {version}, round {round} of {repeat}"),
            };
            let outcome = step::run(&name, command);
            step::say("pictures of the scenarios: target/pictures/integration-*.html");
            outcome.context(|| format!("the tests on etcd {version} failed"))?;
        }
    }
    Ok(())
}
