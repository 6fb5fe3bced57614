//! `cargo xtask up`, and what it says to try next.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use curator_harness::process::{Finished, run};
use curator_harness::{Capture, Mark, ProcessSpec, Recorded, TempDir};

use super::blocks::Guide;

/// What is started again after ten seconds is there then, on a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

/// What a command printed is all one line.
fn sh(script: &str, scratch: &TempDir) -> Finished {
    let mut command = Command::new("sh");
    // Anywhere, by somebody with another cluster's variables.
    command.args(["-eu", "-c", script]).current_dir(scratch.path());
    command.env("HOME", scratch.path());
    run(command, LONG).unwrap()
}

#[test]
fn each_command_that_up_prints_works_as_it_is_printed() {
    if crate::test_cluster::done_already() {
        return;
    }
    let scratch = TempDir::new("up").unwrap();
    let block = Guide::read("docs/getting-started.md")
        .next("cargo xtask up")
        .trim()
        .to_owned();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // In the checkout, and it uses the programs that are tried here.
    let script = format!(
        "cd '{}' && exec \"$0\" {}",
        checkout.display(),
        block.trim_start_matches("cargo ")
    );
    let spec = ProcessSpec::new("up", "sh")
        .args(["-c", &script])
        .args([cargo])
        .capture(Capture::Stdout);
    let up = Recorded::start(&spec, &scratch).unwrap();
    up.wait_line(Mark::START, LONG, |line| line.starts_with("Ctrl-c stops everything"))
        .unwrap();
    let mark = up.lines.mark();
    let printed: Vec<String> = up.lines.since(Mark::START).into_iter().map(|line| line.text).collect();
    let mut commands = printed
        .iter()
        .skip_while(|line| !line.starts_with("In another terminal"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .map(|line| line.trim());
    let setup = commands.next().unwrap();
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands.len(), 5, "{printed:?}");
    let leads = |line: &str| line.contains("LEADER at revision");
    for command in commands {
        let before = up.lines.mark();
        let done = sh(&format!("{setup}\n{command}\n"), &scratch);
        assert!(done.status.success(), "{command}: {}{}", done.stdout, done.stderr);
        if command.contains("step-down") {
            up.wait_line(before, LONG, leads).unwrap();
        }
        if command.starts_with("kill") {
            let killed = up
                .wait_line(before, LONG, |line| line.contains("ended (signal: 9"))
                .unwrap();
            let next = up.wait_line(before, LONG, leads).unwrap();
            assert!(next.text.contains("without a leader"), "{} {}", killed.text, next.text);
        }
        if command.starts_with("curatorctl status --wait") {
            assert_eq!(done.stdout.matches("follower").count(), 2, "{}", done.stdout);
        }
    }
    // Calls have been answered all the time, by the leader.
    up.wait_line(mark, LONG, |line| line.contains("calls through curator-2  answered by"))
        .unwrap();
    up.process.signal(rustix::process::Signal::INT).unwrap();
    up.wait_line(mark, LONG, |line| line == "all stopped").unwrap();
    assert!(up.process.wait_exit(LONG).unwrap().success());
    assert!(!checkout.join("target/up").exists(), "it had keys in it");
}
