//! The examples of the libraries, run as their first lines say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use curator_harness::checkout::root;
use curator_harness::error::{Error, Result};
use curator_harness::process::{Capture, Orphan, ProcessSpec, Recorded, bound};
use curator_harness::step;
use curator_harness::{EtcdCluster, EtcdOptions, Mark, TempDir};

use crate::cargo::cargo;
use crate::tools::etcd::{Want, select};

/// The examples that run alone, and end by themselves.
const ALONE: &[&str] = &["tonic_service", "embed", "fenced_write", "unit_test_with_mock"];
/// The example that stands in an election, on a real etcd.
const ELECT: &str = "elect";

const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs all of them but `client`, which a test of `curator` runs on a cluster.
///
/// # Errors
/// With the first example that fails.
pub fn run_tests() -> Result<()> {
    // With the features of the unit tests, so that nothing is built for this alone.
    let build = cargo(&["build", "--workspace", "--all-features", "--examples"]);
    step::run("build the examples", build)?;
    step::timed("run the examples", || {
        for name in ALONE {
            step::quiet(&format!("run the example {name}"), bound(built(name), Orphan::Kill))?;
        }
        stand_for_election(&built(ELECT))
    })
}

fn built(name: &str) -> PathBuf {
    root().join("target/debug/examples").join(name)
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
    running.wait_line(Mark::START, TIMEOUT, |line| line.starts_with("we lead"))?;
    Ok(())
}
