//! The processor time that a process has taken.
use std::fs;
use std::time::Duration;

use curator_harness::error::{Context, Error, Result};

/// That of all its threads. Finer than what `stat` says, which only looks at who runs when the clock ticks.
pub(super) fn of_process(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = Duration::ZERO;
    for task in fs::read_dir(&tasks).context(|| format!("cannot read {tasks}"))? {
        let Ok(task) = task else { continue };
        let path = task.path().join("schedstat");
        // A thread may end at any time.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        total += parse(&text).ok_or_else(|| Error::new(format!("{} holds {text:?}", path.display())))?;
    }
    Ok(total)
}

/// Time on the processor, in nanoseconds, is the first of three numbers.
fn parse(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_read() {
        assert_eq!(parse("814830055 879895 10\n"), Some(Duration::from_nanos(814_830_055)));
        assert_eq!(parse(""), None);
        assert!(of_process(std::process::id()).unwrap() > Duration::ZERO);
    }
}
