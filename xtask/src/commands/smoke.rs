//! `cargo xtask smoke`: each command of the programs, built as users get them.
use std::path::Path;
use std::process::Command as Process;

use curator_harness::checkout::root;
use curator_harness::error::{Context, Error, Result};
use curator_harness::process::{Orphan, bound};
use curator_harness::step;
use curator_harness::temp_dir::TempDir;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::workspace::{CURATOR, CURATORCTL, build_shipped};

/// The command.
pub const COMMAND: Command = Command {
    name: "smoke",
    summary: "tries each command of the programs, optimized and without debug assertions",
    help: "Usage: cargo xtask smoke [--installed]

Builds curator and curatorctl with the profile `shipped`: optimized and without debug assertions, as users get them, less the
link-time optimization. Then runs each command on an embedded store, and checks its exit code.

  --installed  what `cargo install --path` installs, with the release profile, which takes minutes",
    run,
};

fn run(mut args: Args) -> Result<()> {
    let installed = args.switch("--installed")?;
    args.finish(0)?;
    if installed { run_installed() } else { run_tests() }
}

/// Installs the programs as the README says, and runs each of their commands.
///
/// # Errors
/// They cannot be installed, or with the first command that ends with another exit code than it should.
pub fn run_installed() -> Result<()> {
    let place = root().join("target").join("installed");
    for path in ["curator-service/curator", "curator-service/curatorctl"] {
        let mut install = cargo(&["install", "--locked", "--force", "--path", path, "--root"]);
        install.arg(&place);
        step::run("install the programs", install)?;
    }
    let program = |name: &str| place.join("bin").join(name);
    each_command(
        &program("curator"),
        &program("curatorctl"),
        "each command of the installed programs",
    )
}

/// Runs them.
///
/// # Errors
/// With the first command that ends with another exit code than it should.
pub fn run_tests() -> Result<()> {
    let curator = build_shipped(CURATOR)?;
    let ctl = build_shipped(CURATORCTL)?;
    each_command(&curator, &ctl, "each command of a build without debug assertions")
}

fn each_command(curator: &Path, ctl: &Path, what: &str) -> Result<()> {
    step::timed(what, || {
        let scratch = TempDir::new("smoke")?;
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let (state, copy, credentials, file) = (at("state"), at("copy"), at("credentials"), at("state.export"));
        let (nowhere, none, none_at) = (at("nowhere"), "http://127.0.0.1:1", "127.0.0.1:1");
        let cases: [(&Path, &[&str], i32); 15] = [
            (
                curator,
                &["bootstrap", "--embedded", &state, "--credentials", &credentials],
                0,
            ),
            (
                curator,
                &[
                    "config",
                    "check",
                    "--embedded",
                    &state,
                    "--credentials",
                    &credentials,
                    "--advertise",
                    none_at,
                ],
                0,
            ),
            (
                curator,
                &[
                    "config",
                    "show",
                    "--embedded",
                    &state,
                    "--credentials",
                    &credentials,
                    "--advertise",
                    none_at,
                ],
                0,
            ),
            (curator, &["export", "--embedded", &state, "--out", &file], 0),
            (curator, &["inspect", &file], 0),
            (curator, &["import", "--embedded", &copy, &file], 0),
            // There is no such directory, so that there is nothing to give back.
            (
                curator,
                &["release", "--runtime-dir", &nowhere, "--etcd-endpoints", none],
                1,
            ),
            (curator, &["register"], 2),
            (curator, &["serve"], 2),
            (curator, &["bootstrap"], 2),
            (curator, &["export"], 2),
            (curator, &["inspect"], 2),
            (curator, &["import"], 2),
            (curator, &["release"], 2),
            (ctl, &["--help"], 0),
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
