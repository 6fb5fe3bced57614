//! The examples of the libraries, run as their first lines say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::checkout::root;
use curator_harness::error::{Error, Result};
use curator_harness::process::{Capture, Orphan, ProcessSpec, Recorded, bound};
use curator_harness::{EtcdCluster, EtcdOptions, Mark, SingleNode, TempDir, step};

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::tools::etcd::{Want, select};
use crate::tools::protoc;

/// The command.
pub const COMMAND: Command = Command {
    name: "examples",
    summary: "runs the examples of the libraries",
    help: "Usage: cargo xtask examples

Builds the examples of the libraries and runs each: those that run alone, `elect` on a real etcd, and `client` on a cluster
with TLS. `cargo xtask test` does so too.",
    run,
};

fn run(args: Args) -> Result<()> {
    args.finish(0)?;
    protoc::ensure()?;
    run_tests()
}

/// The examples that run alone, and end by themselves.
const ALONE: &[&str] = &["tonic_service", "embed", "fenced_write", "unit_test_with_mock"];
/// The example that stands in an election, on a real etcd.
const ELECT: &str = "elect";
/// The example that calls a cluster as its owner.
const CLIENT: &str = "client";

const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs all of them.
///
/// # Errors
/// With the first example that fails.
pub fn run_tests() -> Result<()> {
    // With the features of the unit tests, so that nothing is built for this alone.
    let build = cargo(&["build", "--workspace", "--all-features", "--examples", "--bins"]);
    step::run("build the examples", build)?;
    step::timed("run the examples", || {
        for name in ALONE {
            step::quiet(&format!("run the example {name}"), bound(built(name), Orphan::Kill))?;
        }
        stand_for_election(&built(ELECT))?;
        list_nodes(&built(CLIENT))
    })
}

fn built(example: &str) -> PathBuf {
    root().join("target/debug/examples").join(example)
}

fn program(name: &str) -> PathBuf {
    root().join("target/debug").join(name)
}

/// The client lists the nodes of a cluster with TLS, with the owner's credentials.
fn list_nodes(client: &Path) -> Result<()> {
    let node = SingleNode::start("example-client", &program("curator"), &program("curatorctl"))?;
    let mut client = bound(client, Orphan::Kill);
    client.arg(node.address().to_string());
    client.args([node.ca(), node.owner_certificate(), node.owner_key()]);
    let listed = step::quiet("run the example client", client)?;
    if !listed.starts_with("metropolis-") || !listed.contains("Up") {
        return Err(Error::new(format!("the example client lists no node: {listed:?}")));
    }
    Ok(())
}

/// The example leads an election of its own.
fn stand_for_election(program: &Path) -> Result<()> {
    let scratch = TempDir::new("examples")?;
    let found = select(&Want::First)?.remove(0);
    let options = EtcdOptions {
        members: 1,
        ..EtcdOptions::default()
    };
    let etcd = EtcdCluster::start(&found.binaries, &scratch, options)?;
    let endpoint = etcd.endpoints().into_iter().next();
    let endpoint = endpoint.ok_or_else(|| Error::new("etcd has no endpoint"))?;
    let spec = ProcessSpec::new(ELECT, program)
        .args([endpoint.as_str(), "node-1"])
        .capture(Capture::Stdout);
    let running = Recorded::start(&spec, &scratch)?;
    running.wait_line(Mark::START, TIMEOUT, |line| line.starts_with("leading for"))?;
    Ok(())
}
