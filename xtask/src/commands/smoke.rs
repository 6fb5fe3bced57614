//! `cargo xtask smoke`: each command of the programs, built as users get them.

use std::path::Path;
use std::process::Command as Process;

use crate::args::Args;
use crate::cli::Command;
use crate::error::{Context, Error, Result};
use crate::harness::process::{Orphan, bound};
use crate::harness::scratch::Scratch;
use crate::step;
use crate::workspace::{CURATOR, CURATORCTL, build_shipped};

/// The command.
pub const COMMAND: Command = Command {
    name: "smoke",
    summary: "tries each command of the programs, optimized and without debug assertions",
    help: "Usage: cargo xtask smoke

Builds curator and curatorctl with the profile `shipped`: optimized and without debug assertions, as users get them, less the
link-time optimization. Then runs each command on an embedded store, and checks its exit code.",
    run,
};

fn run(args: Args) -> Result<()> {
    args.finish(0)?;
    run_tests()
}

/// Runs them.
///
/// # Errors
/// With the first command that ends with another exit code than it should.
pub fn run_tests() -> Result<()> {
    let curator = build_shipped(CURATOR)?;
    let ctl = build_shipped(CURATORCTL)?;
    step::timed("each command of a build without debug assertions", || {
        let scratch = Scratch::new("smoke")?;
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let (state, copy, credentials, file) = (at("state"), at("copy"), at("credentials"), at("state.export"));
        let (nowhere, none) = (at("nowhere"), "http://127.0.0.1:1");
        let cases: [(&Path, &[&str], i32); 13] = [
            (
                &curator,
                &["bootstrap", "--embedded", &state, "--credentials", &credentials],
                0,
            ),
            (
                &curator,
                &["config", "check", "--embedded", &state, "--credentials", &credentials],
                0,
            ),
            (
                &curator,
                &["config", "show", "--embedded", &state, "--credentials", &credentials],
                0,
            ),
            (&curator, &["export", "--embedded", &state, "--out", &file], 0),
            (&curator, &["import", "--embedded", &copy, &file], 0),
            // There is no such directory, so that there is nothing to give back.
            (
                &curator,
                &["release", "--runtime-dir", &nowhere, "--etcd-endpoints", none],
                1,
            ),
            (&curator, &["register"], 2),
            (&curator, &["serve"], 2),
            (&curator, &["bootstrap"], 2),
            (&curator, &["export"], 2),
            (&curator, &["import"], 2),
            (&curator, &["release"], 2),
            (&ctl, &["--help"], 0),
        ];
        cases
            .iter()
            .try_for_each(|(program, words, code)| expect(program, words, *code))
    })
}

/// The exit code of a panic is 101.
fn expect(program: &Path, words: &[&str], code: i32) -> Result<()> {
    let mut command: Process = bound(program, Orphan::Terminate);
    command.args(words);
    let output = command
        .output()
        .context(|| format!("cannot start {}", program.display()))?;
    if output.status.code() == Some(code) {
        return Ok(());
    }
    Err(Error::new(format!(
        "{} {}: {} instead of exit code {code}: {}",
        program.display(),
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )))
}
