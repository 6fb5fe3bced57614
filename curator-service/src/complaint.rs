//! Rate-limited log lines: anybody can provoke failing calls, so the number of lines they cause is bounded.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The maximum number of lines per [`WINDOW`].
const MAX_REPEATS: u32 = 8;
/// The window of the rate limit.
const WINDOW: Duration = Duration::from_secs(10);

/// One rate-limited log line.
#[derive(Debug)]
pub(crate) struct Complaint(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Complaint {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Window {
            began: None,
            said: 0,
            left_out: 0,
        }))
    }

    /// Writes the line with the number of suppressed ones, or suppresses it.
    pub(crate) fn say(&self, log: impl FnOnce(u64)) {
        // The lock cannot be poisoned half-way: its holders do not panic.
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| began.elapsed() >= WINDOW) {
            window.began = Some(Instant::now());
            window.said = 0;
        }
        if window.said >= MAX_REPEATS {
            window.left_out += 1;
            return;
        }
        window.said += 1;
        let left_out = std::mem::take(&mut window.left_out);
        drop(window);
        log(left_out);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_often_it_happens_it_is_said_a_few_times() {
        let complaint = Complaint::new();
        let mut lines = Vec::new();
        for _ in 0..1_000 {
            complaint.say(|left_out| lines.push(left_out));
        }
        assert_eq!(lines, [0; 8]);
        advance(WINDOW).await;
        complaint.say(|left_out| lines.push(left_out));
        assert_eq!(lines.last(), Some(&992));
    }
}
