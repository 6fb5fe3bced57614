//! The memory that a process has.

use std::fmt::Display;
use std::fs;

use crate::error::{Context, Error, Result};

/// What it has at the moment, in bytes.
///
/// # Errors
/// There is no such process, or the system does not say.
pub fn resident(pid: impl Display) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// The most that it has had, in bytes.
///
/// # Errors
/// There is no such process, or the system does not say.
pub fn peak(pid: impl Display) -> Result<u64> {
    status(pid, "VmHWM:")
}

fn status(pid: impl Display, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
    parse(&text, field).ok_or_else(|| Error::new(format!("{path} does not say {field}")))
}

fn parse(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read() {
        let text = "VmSize:\t 9 kB\nVmHWM:\t 8 kB\nVmRSS:\t    7 kB\n";
        assert_eq!(parse(text, "VmRSS:"), Some(7 * 1_024));
        assert_eq!(parse(text, "VmHWM:"), Some(8 * 1_024));
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 0 && peak(pid).unwrap() > 0);
    }
}
