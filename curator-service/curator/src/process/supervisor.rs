//! `curator serve --supervised`: a small process above the instance, which gives the instance's leases back once it is dead.
//!
//! That is safe because only the end of the process itself counts, as the system tells it to its parent: a dead process acts no
//! more, and what it sent before is fenced by the key that goes with the lease. A process that is stopped or stuck, or that says
//! nothing, is not dead, and its lease is left to run out.
//!
//! The instance tells of its leases on standard output, which it uses for nothing else, a line for each grant and each end. Its
//! standard input is held open by the parent: when that ends, the parent is gone, and the instance hands over and ends as well.
//! Should both be killed, the lease runs out by itself.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::store::{LeaseId, Store, StoreError};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

/// How often, and for how long altogether, a lease is given back.
const TRIES: u32 = 10;
const WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// How long what a dead process has said may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// The most leases that are remembered. An instance has one at a time.
const MOST_LEASES: usize = 64;
/// What the shell adds to the number of a signal that ended a process.
const BY_SIGNAL: i32 = 128;

/// Tells the instance to tell of its leases.
pub(crate) const REPORT_LEASES: &str = "report-leases";

/// Runs the instance that this process was told to run, as a child, to its end; its exit code is ours.
pub(crate) fn run(etcd: EtcdConfig) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot begin");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let (status, leases) = match watch_over(own_command()).await {
            Ok(ended) => ended,
            Err(error) => {
                error!(%error, "cannot run the instance");
                return ExitCode::FAILURE;
            }
        };
        if !leases.is_empty() {
            info!(%status, "the instance is dead: giving its lease back");
            release(etcd, leases).await;
        }
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// This very program with the same arguments, but for the one that brought us here.
fn own_command() -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    let own = OsString::from("--supervised");
    command.args(std::env::args_os().skip(1).filter(|arg| *arg != own));
    command
        .arg(format!("--{REPORT_LEASES}"))
        .env_remove("CURATOR_SUPERVISED")
        // A service manager that watches over us is told by the instance how it is.
        .env_remove("WATCHDOG_PID");
    Ok(command)
}

/// Runs a process to its end, passing signals on; how it ended, and the leases that it then had.
async fn watch_over(command: std::io::Result<Command>) -> std::io::Result<(ExitStatus, BTreeSet<LeaseId>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut child = command?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Ctrl-c on a terminal reaches us alone, and is passed on once.
        .process_group(0)
        .spawn()?;
    // Held open for as long as we live.
    let _alive = child.stdin.take();
    let mut heard = Heard::new(child.stdout.take());
    info!(child = child.id(), "watching over an instance");
    let status = loop {
        tokio::select! {
            () = heard.more() => {}
            status = child.wait() => break status?,
            _ = terminate.recv() => pass_on(&child, Signal::TERM),
            _ = interrupt.recv() => pass_on(&child, Signal::INT),
            _ = hangup.recv() => pass_on(&child, Signal::HUP),
        }
    };
    // Until the end of what it has said, which is there now that it is dead.
    let _ = tokio::time::timeout(LAST_WORDS, async {
        while heard.lines.is_some() {
            heard.more().await;
        }
    })
    .await;
    Ok((status, heard.leases))
}

fn pass_on(child: &Child, signal: Signal) {
    // It has no id any more once it has been waited for.
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        warn!(%error, ?signal, "cannot pass a signal on");
    }
}

/// What the instance has told of its leases.
struct Heard {
    /// Until their end, which says nothing about the instance's.
    lines: Option<Lines<BufReader<ChildStdout>>>,
    leases: BTreeSet<LeaseId>,
}

impl Heard {
    fn new(stdout: Option<ChildStdout>) -> Self {
        Self {
            lines: stdout.map(|stdout| BufReader::new(stdout).lines()),
            leases: BTreeSet::new(),
        }
    }

    /// Waits for a line and takes it in; for ever if there will be none. Cancellation safe.
    async fn more(&mut self) {
        let Some(lines) = &mut self.lines else {
            return std::future::pending().await;
        };
        match lines.next_line().await {
            Ok(Some(line)) => self.take(&line),
            Ok(None) => self.lines = None,
            Err(error) => {
                warn!(%error, "cannot hear the instance any more: its lease will run out by itself");
                self.lines = None;
            }
        }
    }

    fn take(&mut self, line: &str) {
        match read_report(line) {
            Some(Report::Granted(lease)) => {
                if self.leases.len() == MOST_LEASES {
                    self.leases.pop_first();
                }
                self.leases.insert(lease);
            }
            Some(Report::Ended(lease)) => {
                self.leases.remove(&lease);
            }
            None => warn!(line, "the instance tells something unknown"),
        }
    }
}

/// A line of the instance's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Granted(LeaseId),
    Ended(LeaseId),
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Granted(lease) => write!(f, "granted {lease}"),
            Self::Ended(lease) => write!(f, "ended {lease}"),
        }
    }
}

fn read_report(line: &str) -> Option<Report> {
    let (what, lease) = line.split_once(' ')?;
    let lease = read_lease(lease)?;
    match what {
        "granted" => Some(Report::Granted(lease)),
        "ended" => Some(Report::Ended(lease)),
        _ => None,
    }
}

/// A lease as it is written.
pub(crate) fn read_lease(text: &str) -> Option<LeaseId> {
    // As etcd's own tools print it: the two's complement in hex.
    let bits = u64::from_str_radix(text, 16).ok()?;
    LeaseId::new(i64::from_ne_bytes(bits.to_ne_bytes()))
}

/// Gives leases of a dead process back; whether all of them are known to be gone.
pub(crate) async fn release(etcd: EtcdConfig, leases: BTreeSet<LeaseId>) -> bool {
    let store = match EtcdStore::new(etcd) {
        Ok(store) => store,
        Err(error) => {
            error!(%error, "cannot reach etcd: the lease will run out by itself");
            return false;
        }
    };
    let each = leases.into_iter().map(|lease| release_one(&store, lease));
    match tokio::time::timeout(WITHIN, futures::future::join_all(each)).await {
        Ok(gone) => gone.into_iter().all(|gone| gone),
        Err(_) => {
            error!(within = ?WITHIN, "etcd has not taken the lease back: it will run out by itself");
            false
        }
    }
}

async fn release_one(store: &EtcdStore, lease: LeaseId) -> bool {
    for _ in 0..TRIES {
        match store.revoke(lease).await {
            Ok(()) => {
                info!(%lease, "the lease is given back");
                return true;
            }
            Err(StoreError::LeaseNotFound { .. }) => {
                info!(%lease, "the lease was gone already");
                return true;
            }
            Err(error) => warn!(%lease, %error, "cannot give the lease back (yet)"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> std::io::Result<Command> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Ok(command)
    }

    fn leases(ids: &[i64]) -> BTreeSet<LeaseId> {
        ids.iter().filter_map(|id| LeaseId::new(*id)).collect()
    }

    #[test]
    fn reports_are_read_as_they_are_written() {
        for id in [1, 0x1f, i64::MAX, -1] {
            let lease = LeaseId::new(id).unwrap();
            for report in [Report::Granted(lease), Report::Ended(lease)] {
                assert_eq!(read_report(&report.to_string()), Some(report));
            }
        }
        for line in ["", "granted", "granted 0", "granted x", "lost 1", "granted 1 2"] {
            assert_eq!(read_report(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_instance_tells_the_service_manager_and_is_no_parent() {
        let command = own_command().unwrap();
        let taken: Vec<_> = command
            .as_std()
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .collect();
        for name in ["WATCHDOG_PID", "CURATOR_SUPERVISED"] {
            assert!(taken.iter().any(|(taken, _)| *taken == name), "{name}");
        }
        assert!(command.as_std().get_args().any(|arg| arg == "--report-leases"));
    }

    #[tokio::test]
    async fn what_is_left_at_its_end_is_known_however_it_ends() {
        let script = "echo granted a; echo granted b; echo nonsense; echo ended a; kill -9 $$";
        let (status, left) = watch_over(shell(script)).await.unwrap();
        assert_eq!((status.signal(), left), (Some(9), leases(&[0xb])));
        let (status, left) = watch_over(shell("echo granted a; exit 3")).await.unwrap();
        assert_eq!((status.code(), left), (Some(3), leases(&[0xa])));
    }

    #[tokio::test]
    async fn one_that_says_no_more_is_not_dead() {
        // It ends only when it is told to, through the pipe that it reads: before that nothing may come of its silence.
        let fifo = std::env::temp_dir().join(format!("curator-silent-{}", std::process::id()));
        let script = format!(
            "mkfifo {0}; echo granted a; exec >&-; : > {0}.closed; read word < {0}; exit 4",
            fifo.display()
        );
        let closed = fifo.with_extension("closed");
        let _ = std::fs::remove_file(&fifo);
        let _ = std::fs::remove_file(&closed);
        let over = tokio::spawn(watch_over(shell(&script)));
        while !closed.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Its output has ended by now; so would the waiting for it, if that were taken for its end.
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(!over.is_finished(), "it is still alive");
        }
        tokio::fs::write(&fifo, "end\n").await.unwrap();
        let (status, left) = over.await.unwrap().unwrap();
        assert_eq!((status.code(), left), (Some(4), leases(&[0xa])));
        let _ = std::fs::remove_file(&fifo);
        let _ = std::fs::remove_file(&closed);
    }
}
