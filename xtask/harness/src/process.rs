//! A child process with its log, its signals and bounded waits, killed and reaped when it is dropped.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::clock::Deadline;
use super::hosts::Host;
use super::journal::{Journal, Mark};
use super::lines::{Line, LineReader};
use super::lock;
use super::temp_dir::{TempDir, tail};
pub use crate::child::{Orphan, bound, spawn, typed, unbound};
use crate::error::{Context, Error, Result};
pub use crate::run::{Finished, run};

/// A killed process is gone in no time, unless the kernel itself hangs.
const REAP: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Which of its outputs is read line by line. The other one goes to a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Neither: both go to one log.
    Nothing,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    host: Option<Host>,
    capture: Capture,
}

impl ProcessSpec {
    /// A program under a name that its log and all messages bear.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            host: None,
            capture: Capture::Nothing,
        }
    }

    /// With another program.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// On a host of its own.
    #[must_use]
    pub fn on(mut self, host: Option<&Host>) -> Self {
        self.host = host.cloned();
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes all our own variables away whose name begins so.
    #[must_use]
    pub fn without_env(mut self, prefix: &str) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(prefix) {
                self.env.push((name, None));
            }
        }
        self
    }

    /// Reads one of its outputs line by line.
    #[must_use]
    pub fn capture(mut self, capture: Capture) -> Self {
        self.capture = capture;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn command(&self) -> Command {
        let mut command = match &self.host {
            // It becomes the program, under the same number.
            Some(host) => {
                let mut command = bound("ip", Orphan::Kill);
                command.args(["netns", "exec", host.namespace()]).arg(&self.program);
                command
            }
            None => bound(&self.program, Orphan::Kill),
        };
        command.args(&self.args).stdin(Stdio::null());
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // Ctrl-c on the terminal must reach only us: we stop the children in the right order.
        command.process_group(0);
        command
    }
}

/// A running child. Signals and waits work from any thread.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    state: Mutex<State>,
    reader: Mutex<Option<LineReader>>,
}

#[derive(Debug)]
struct State {
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts it. Its log is `NAME.log` in the scratch directory, continued if it is there already.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(spec: &ProcessSpec, scratch: &TempDir) -> Result<Self> {
        Self::start_with(spec, scratch, drop)
    }

    /// Starts it and hands each captured line to `sink`, on a thread of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(spec: &ProcessSpec, scratch: &TempDir, sink: impl FnMut(Line) + Send + 'static) -> Result<Self> {
        if spec.program.components().count() > 1 && !spec.program.is_file() {
            return Err(Error::new(format!(
                "cannot start {}: there is no file {}",
                spec.name,
                spec.program.display()
            )));
        }
        let log = scratch.log(&format!("{}.log", spec.name));
        let mut command = spec.command();
        let file = append(&log)?;
        let copy = file.try_clone().context(|| format!("cannot use {}", log.display()))?;
        match spec.capture {
            Capture::Nothing => command.stdout(copy).stderr(file),
            Capture::Stdout => command
                .stdout(Stdio::piped())
                .stderr(append(&scratch.log(&format!("{}.err.log", spec.name)))?),
            Capture::Stderr => command
                .stderr(Stdio::piped())
                .stdout(append(&scratch.log(&format!("{}.out.log", spec.name)))?),
        };
        let shown = typed(&command);
        let mut child = spawn(command).context(|| format!("cannot start {}: {shown}", spec.name))?;
        let pid = Pid::from_child(&child);
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        // From here on the child has an owner that kills it, whatever fails.
        let process = Self {
            name: spec.name.clone(),
            pid,
            log: log.clone(),
            state: Mutex::new(State { child, status: None }),
            reader: Mutex::new(None),
        };
        if spec.capture != Capture::Nothing {
            let copy = append(&log)?;
            let reader = match (stdout, stderr) {
                (Some(stdout), _) => LineReader::start(stdout, copy, sink)?,
                (None, Some(stderr)) => LineReader::start(stderr, copy, sink)?,
                (None, None) => return Err(Error::new(format!("{} has no output to read", spec.name))),
            };
            *lock(&process.reader) = Some(reader);
        }
        Ok(process)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn status(&self) -> Option<ExitStatus> {
        lock(&self.state).status()
    }

    /// Whether it has not ended. A paused one is running.
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Whether it is stopped in its tracks, by [`Process::pause`] or by someone else.
    pub fn is_paused(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state follows the name, which stands in parentheses and may hold anything.
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['T', 't']))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(status) = state.status() {
            return Err(Error::new(format!(
                "{} has ended already ({status}); its log is {}",
                self.name,
                self.log.display()
            )));
        }
        // It is not reaped while we hold the lock, so that the number is still its own.
        kill_process(self.pid, signal).context(|| format!("cannot signal {}", self.name))
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// As [`Process::signal`].
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Stops it in its tracks (SIGSTOP): its sockets stay open, and nothing answers.
    ///
    /// # Errors
    /// As [`Process::signal`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Process::pause`] (SIGCONT).
    ///
    /// # Errors
    /// As [`Process::signal`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it (SIGKILL) and waits until it is gone. Fine when it has ended already.
    ///
    /// # Errors
    /// When the system does not let go of it.
    pub fn kill(&self) -> Result<ExitStatus> {
        if self.is_running() {
            // It may end between the two: then there is nothing to kill.
            let _ = self.signal(Signal::CONT);
            let _ = self.signal(Signal::KILL);
        }
        self.wait_exit(REAP)
    }

    /// Waits for its end. All that it printed has been read then.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_exit(&self, within: Duration) -> Result<ExitStatus> {
        let deadline = Deadline::after(within);
        let status = loop {
            if let Some(status) = self.status() {
                break status;
            }
            if deadline.passed() {
                return Err(deadline.missed(format_args!(
                    "the end of {} (pid {}); its log is {}",
                    self.name,
                    self.pid(),
                    self.log.display()
                )));
            }
            thread::sleep(POLL_INTERVAL);
        };
        if let Some(mut reader) = lock(&self.reader).take() {
            reader.finish();
        }
        Ok(status)
    }

    /// An error that says it ended when it should not have, with the end of its log.
    pub fn ended_early(&self, status: ExitStatus) -> Error {
        let end = tail(&self.log).unwrap_or_default();
        Error::new(format!(
            "{} ended by itself ({status}); the end of its log {}:\n{end}",
            self.name,
            self.log.display()
        ))
    }
}

impl State {
    fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{} may still run: {error}", self.name);
        }
    }
}

/// A process whose captured lines are kept.
#[derive(Debug)]
pub struct Recorded {
    /// The process.
    pub process: Process,
    /// What it printed so far.
    pub lines: Arc<Journal<Line>>,
}

impl Recorded {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(spec: &ProcessSpec, scratch: &TempDir) -> Result<Self> {
        let lines = Arc::new(Journal::default());
        let record = Arc::clone(&lines);
        let process = Process::start_with(spec, scratch, move |line| record.record(line))?;
        Ok(Self { process, lines })
    }

    /// Waits for a line after the mark that `wanted` picks.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn wait_line(&self, mark: Mark, within: Duration, wanted: impl Fn(&str) -> bool) -> Result<Line> {
        let deadline = Deadline::after(within);
        self.lines
            .wait(mark, deadline, |line| wanted(&line.text).then(|| line.clone()))
            .ok_or_else(|| {
                let name = self.process.name();
                deadline.missed(format_args!(
                    "a certain line of {name}; its log is {}",
                    self.process.log().display()
                ))
            })
    }
}

fn append(path: &Path) -> Result<std::fs::File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .context(|| format!("cannot open the log {}", path.display()))
}
