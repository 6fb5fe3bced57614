//! A disk that is slow: each fsync of a process takes longer, by strace.
use std::time::Duration;

use curator_harness::TempDir;
use curator_harness::error::Result;
use curator_harness::process::{Process, ProcessSpec};
use curator_harness::which::on_path;

/// By how much each fsync takes longer.
pub(super) const DELAY: Duration = Duration::from_millis(300);

/// Makes the disk of these processes slow until what it returns is dropped; `None` without strace.
pub(super) fn slow_disk(pids: &[u32], scratch: &TempDir) -> Result<Option<Vec<Process>>> {
    let Some(strace) = on_path("strace") else {
        return Ok(None);
    };
    let start = |pid: &u32| {
        let spec = ProcessSpec::new(format!("strace-{pid}"), &strace)
            .args(["--follow-forks", "--quiet=all", "--output=/dev/null"])
            .args(["--trace=fsync,fdatasync"])
            .args([format!("--inject=fsync,fdatasync:delay_enter={}", DELAY.as_micros())])
            .args([format!("--attach={pid}")]);
        Process::start(&spec, scratch)
    };
    pids.iter().map(start).collect::<Result<_>>().map(Some)
}
