//! The memory that a process has.

use std::fmt::Display;
use std::fs;

use crate::error::{Context, Error, Result};

/// What it has at the moment, in bytes.
///
/// # Errors
/// There is no such process, or the system does not say.
pub fn resident(pid: impl Display) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
    parse(&text).ok_or_else(|| Error::new(format!("{path} does not say VmRSS")))
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read() {
        assert_eq!(parse("VmSize:\t 9 kB\nVmRSS:\t    7 kB\n"), Some(7 * 1_024));
        assert!(resident(std::process::id()).unwrap() > 0);
    }
}
