//! `curator serve --supervised`: a small parent process that revokes the leases of the instance once the instance is
//! dead.
//!
//! This is safe because only the exit of the process counts, which the kernel reports to its parent. A dead process
//! cannot act, and requests that it sent before are fenced by the key that ends with the lease. A process that is
//! stopped, stuck or silent is not dead, and its lease is left to expire.
//!
//! The instance reports its leases on standard output, which it uses for nothing else: one line for each grant and
//! each end. The supervisor holds the standard input of the instance open. When it ends, the supervisor is dead, and
//! the instance transfers the leadership and exits. If both are killed, the lease expires after its TTL.

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

/// Maximum number of attempts to revoke a lease.
const MAX_ATTEMPTS: u32 = 10;
/// Timeout of all attempts together.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Timeout for reading the remaining output of a dead process.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
/// Maximum number of leases to track. An instance has one at a time.
const MAX_LEASES: usize = 64;
/// Offset of a signal number in an exit code, as in shells.
const SIGNAL_EXIT_BASE: i32 = 128;

/// The hidden flag with which an instance reports its leases.
pub(crate) const REPORT_LEASES: &str = "report-leases";

/// Runs the instance as a child process until it exits; returns its exit code.
pub(crate) fn run(etcd: EtcdConfig) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the supervisor");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let (status, leases) = match supervise(own_command()).await {
            Ok(ended) => ended,
            Err(error) => {
                error!(%error, "cannot start the instance");
                return ExitCode::FAILURE;
            }
        };
        if !leases.is_empty() {
            info!(%status, "instance exited: revoking its lease");
            release(etcd, leases).await;
        }
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| SIGNAL_EXIT_BASE + signal));
        code.and_then(|code| u8::try_from(code).ok())
            .map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// This program with the same arguments except `--supervised`.
fn own_command() -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    let own = OsString::from("--supervised");
    command.args(std::env::args_os().skip(1).filter(|arg| *arg != own));
    command
        .arg(format!("--{REPORT_LEASES}"))
        .env_remove("CURATOR_SUPERVISED")
        // The instance, not the supervisor, reports to the service manager.
        .env_remove("WATCHDOG_PID");
    Ok(command)
}

/// Runs a process until it exits, and forwards signals to it; returns its exit status and the leases that it held.
async fn supervise(command: std::io::Result<Command>) -> std::io::Result<(ExitStatus, BTreeSet<LeaseId>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut child = command?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // In its own process group: ctrl-c reaches only the supervisor, which forwards it once.
        .process_group(0)
        .spawn()?;
    // Held open until the supervisor exits.
    let _alive = child.stdin.take();
    let mut reports = LeaseReports::new(child.stdout.take());
    info!(child = child.id(), "instance started");
    let status = loop {
        tokio::select! {
            () = reports.more() => {}
            status = child.wait() => break status?,
            _ = terminate.recv() => forward(&child, Signal::TERM),
            _ = interrupt.recv() => forward(&child, Signal::INT),
            _ = hangup.recv() => forward(&child, Signal::HUP),
        }
    };
    // Its remaining output is available now that it is dead.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, async {
        while reports.lines.is_some() {
            reports.more().await;
        }
    })
    .await;
    Ok((status, reports.leases))
}

fn forward(child: &Child, signal: Signal) {
    // There is no id after the child was waited for.
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        warn!(%error, ?signal, "cannot forward a signal");
    }
}

/// The lease reports of the instance.
struct LeaseReports {
    /// `None` after the end of the output, which does not mean that the instance is dead.
    lines: Option<Lines<BufReader<ChildStdout>>>,
    leases: BTreeSet<LeaseId>,
}

impl LeaseReports {
    fn new(stdout: Option<ChildStdout>) -> Self {
        Self {
            lines: stdout.map(|stdout| BufReader::new(stdout).lines()),
            leases: BTreeSet::new(),
        }
    }

    /// Waits for a line and applies it; never returns after the end of the output. Cancellation safe.
    async fn more(&mut self) {
        let Some(lines) = &mut self.lines else {
            return std::future::pending().await;
        };
        match lines.next_line().await {
            Ok(Some(line)) => self.take(&line),
            Ok(None) => self.lines = None,
            Err(error) => {
                warn!(%error, "cannot read the lease reports: the lease will expire after its TTL");
                self.lines = None;
            }
        }
    }

    fn take(&mut self, line: &str) {
        match read_report(line) {
            Some(Report::Granted(lease)) => {
                if self.leases.len() == MAX_LEASES {
                    self.leases.pop_first();
                }
                self.leases.insert(lease);
            }
            Some(Report::Ended(lease)) => {
                self.leases.remove(&lease);
            }
            None => warn!(line, "unexpected line from child process"),
        }
    }
}

/// A line of the instance.
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

/// Parses a lease id.
pub(crate) fn read_lease(text: &str) -> Option<LeaseId> {
    // In the format of etcd's tools: two's complement in hex.
    let bits = u64::from_str_radix(text, 16).ok()?;
    LeaseId::new(i64::from_ne_bytes(bits.to_ne_bytes()))
}

/// Revokes leases of a dead process; returns whether all of them are known to have ended.
pub(crate) async fn release(etcd: EtcdConfig, leases: BTreeSet<LeaseId>) -> bool {
    let store = match EtcdStore::new(etcd) {
        Ok(store) => store,
        Err(error) => {
            error!(%error, "cannot connect to etcd: the lease will expire after its TTL");
            return false;
        }
    };
    let each = leases.into_iter().map(|lease| release_one(&store, lease));
    match tokio::time::timeout(REVOKE_TIMEOUT, futures::future::join_all(each)).await {
        Ok(gone) => gone.into_iter().all(|gone| gone),
        Err(_) => {
            error!(within = ?REVOKE_TIMEOUT, "revoking the lease timed out: it will expire after its TTL");
            false
        }
    }
}

async fn release_one(store: &EtcdStore, lease: LeaseId) -> bool {
    for _ in 0..MAX_ATTEMPTS {
        match store.revoke(lease).await {
            Ok(()) => {
                info!(%lease, "lease revoked");
                return true;
            }
            Err(StoreError::LeaseNotFound { .. }) => {
                info!(%lease, "lease has already ended");
                return true;
            }
            Err(error) => warn!(%lease, %error, "cannot revoke the lease, retrying"),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
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
        let (status, left) = supervise(shell(script)).await.unwrap();
        assert_eq!((status.signal(), left), (Some(9), leases(&[0xb])));
        let (status, left) = supervise(shell("echo granted a; exit 3")).await.unwrap();
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
        let over = tokio::spawn(supervise(shell(&script)));
        while !closed.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Its output has ended; so would the waiting for it, if that were taken for its end.
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
