//! Running a program to its end, within a time, with what it printed.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::child::{spawn, typed};
use crate::clock::Deadline;
use crate::error::{Context, Error, Result};

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What a short program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// With what it wrote to standard error, if it failed.
    pub fn success(self, what: &str) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let said = format!("{}\n{}", self.stdout.trim(), self.stderr.trim());
        Err(Error::new(format!("{what} failed ({})", self.status)).because(said.trim().to_owned()))
    }
}

/// Runs a program that was made with [`bound`](crate::child::bound) to its end, and kills it with all that it started
/// when it takes longer than `within`.
///
/// # Errors
/// When it cannot be started or takes too long. That it failed is told by [`Finished::status`].
pub fn run(mut command: Command, within: Duration) -> Result<Finished> {
    let shown = typed(&command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let deadline = Deadline::after(within);
    let mut child = spawn(command).context(|| format!("cannot start `{shown}`"))?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let mut killed = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if !killed && (deadline.passed() || crate::signals::received().is_some()) => {
                // It has not been reaped, so that the group is still its own.
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                killed = true;
            }
            Ok(None) => thread::sleep(POLL_INTERVAL),
            Err(error) => break Err(error),
        }
    };
    let status = status.context(|| format!("cannot wait for `{shown}`"))?;
    if killed {
        // The readers are not waited for: whatever left the group may hold the pipes. They end with those.
        return Err(deadline.missed(format_args!("`{shown}`, which was then killed")));
    }
    let text = |thread: Option<thread::JoinHandle<String>>| thread.and_then(|t| t.join().ok()).unwrap_or_default();
    Ok(Finished {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
