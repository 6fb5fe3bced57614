//! Children obey signals, are waited for within bounds, and do not outlive us.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use curator_harness::process::{Orphan, bound, run};
use curator_harness::{Capture, Mark, Process, ProcessSpec, Recorded, TempDir, wait_until};

use crate::child::{TestChild, is_child};

const SOON: Duration = Duration::from_secs(10);

fn shell(name: &str, script: &str) -> ProcessSpec {
    ProcessSpec::new(name, "sh").args(["-c", script])
}

/// Whether a process of that number is there. One that has ended and waits to be reaped is not.
pub(crate) fn exists(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim().starts_with('Z'))
}

/// The state letter of a process, `T` for a paused one.
fn state(pid: u32) -> Option<char> {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()?
        .rsplit(')')
        .next()?
        .trim()
        .chars()
        .next()
}

#[test]
fn it_pauses_goes_on_and_ends_when_told() {
    let scratch = TempDir::new("process").unwrap();
    let spec = shell(
        "sleeper",
        "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done",
    )
    .capture(Capture::Stdout);
    let sleeper = Recorded::start(&spec, &scratch).unwrap();
    sleeper.wait_line(Mark::START, SOON, |line| line == "ready").unwrap();
    let process = &sleeper.process;
    process.pause().unwrap();
    wait_until("the pause", SOON, || (state(process.pid()) == Some('T')).then_some(())).unwrap();
    let missed = process.wait_exit(Duration::from_millis(100)).unwrap_err().to_string();
    assert!(missed.contains("the end of sleeper"), "{missed}");
    process.resume().unwrap();
    process.terminate().unwrap();
    assert_eq!(process.wait_exit(SOON).unwrap().code(), Some(7));
    assert!(
        process
            .terminate()
            .unwrap_err()
            .to_string()
            .contains("has ended already")
    );
}

#[test]
fn a_dropped_one_is_killed_even_when_paused() {
    let scratch = TempDir::new("process").unwrap();
    let process = Process::start(&shell("stubborn", "trap '' TERM INT HUP; exec sleep 1000"), &scratch).unwrap();
    let pid = process.pid();
    process.pause().unwrap();
    drop(process);
    assert!(!exists(pid));
}

#[test]
fn lines_come_as_they_are_printed_and_all_of_them_are_read_at_the_end() {
    let scratch = TempDir::new("process").unwrap();
    let spec = shell(
        "talker",
        "echo first; sleep 0.3; for i in $(seq 2000); do echo line $i; done; printf unfinished",
    )
    .capture(Capture::Stdout);
    let talker = Recorded::start(&spec, &scratch).unwrap();
    let first = talker.wait_line(Mark::START, SOON, |line| line == "first").unwrap();
    let last = talker.wait_line(Mark::START, SOON, |line| line == "line 2000").unwrap();
    assert!(
        last.at - first.at >= Duration::from_millis(250),
        "the first line was only seen with the last"
    );
    talker.process.wait_exit(SOON).unwrap();
    let lines = talker.lines.since(Mark::START);
    assert_eq!(lines.len(), 2002);
    assert_eq!(lines[2001].text, "unfinished");
    assert!(
        std::fs::read_to_string(talker.process.log())
            .unwrap()
            .ends_with("line 2000\nunfinished")
    );
}

#[test]
fn what_a_process_wrote_last_is_read_before_its_end_is_told() {
    let scratch = TempDir::new("process").unwrap();
    let spec = shell("talker", "seq 5000").capture(Capture::Stdout);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    // A slow reader has read only the beginning when the process ends.
    let process = Process::start_with(&spec, &scratch, move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    process.unwrap().wait_exit(SOON).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 5000);
}

#[test]
fn a_grandchild_that_holds_the_output_holds_nobody_up() {
    let scratch = TempDir::new("process").unwrap();
    let spec = shell("parent", "sleep 20 & echo $!; exit 0").capture(Capture::Stdout);
    let parent = Recorded::start(&spec, &scratch).unwrap();
    let started = Instant::now();
    parent.process.wait_exit(SOON).unwrap();
    let grandchild = parent.lines.since(Mark::START)[0].text.clone();
    drop(parent);
    assert!(started.elapsed() < Duration::from_secs(10));
    run(
        {
            let mut kill = bound("kill", Orphan::Kill);
            kill.arg(grandchild);
            kill
        },
        SOON,
    )
    .unwrap();
}

#[test]
fn a_program_that_takes_too_long_is_killed_with_its_children() {
    let mut command = bound("sh", Orphan::Kill);
    command.args(["-c", "sleep 1000 & echo $! >\"$0\"; wait"]);
    let scratch = TempDir::new("process").unwrap();
    let file = scratch.path().join("pid");
    command.arg(&file);
    let error = run(command, Duration::from_millis(500)).unwrap_err().to_string();
    assert!(error.contains("sleep 1000"), "{error}");
    let pid: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    wait_until("the grandchild's end", SOON, || (!exists(pid)).then_some(())).unwrap();
}

#[test]
fn nothing_outlives_us_when_we_are_killed() {
    if curator_harness::which::on_path("setpriv").is_none() {
        eprintln!("SKIPPED: there is no setpriv here, so that this cannot hold");
        return;
    }
    let mut us = TestChild::start("process::start_a_child_and_wait_to_be_killed");
    let pid: u32 = us.said("pid=").parse().unwrap();
    let directory = us.said("scratch=");
    assert!(exists(pid));
    us.kill();
    wait_until("the orphan's end", SOON, || (!exists(pid)).then_some(())).unwrap();
    std::fs::remove_dir_all(Path::new(&directory)).unwrap();
}

#[test]
#[ignore = "a helper of the test above"]
fn start_a_child_and_wait_to_be_killed() {
    if is_child() {
        let scratch = TempDir::new("killed").unwrap();
        let recorded = Recorded::start(
            &shell("orphan", "echo ready; exec sleep 1000").capture(Capture::Stdout),
            &scratch,
        )
        .unwrap();
        // It answers, so that the signal of its parent's death has been asked for.
        recorded.wait_line(Mark::START, SOON, |line| line == "ready").unwrap();
        println!("pid={}", recorded.process.pid());
        println!("scratch={}", scratch.path().display());
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_missing_program_is_named() {
    let scratch = TempDir::new("process").unwrap();
    let error = Process::start(&ProcessSpec::new("ghost", "/no/such/program"), &scratch).unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}
