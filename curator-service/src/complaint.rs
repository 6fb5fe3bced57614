//! Log lines about what goes wrong in calls that anybody can make: so many of them, however many calls there are.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// As many lines are written within ...
const MAX_REPEATS: u32 = 8;
/// ... this.
const WINDOW: Duration = Duration::from_secs(10);

/// What is complained about at one place.
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

    /// Says it, with the number of times that it was not said before; or does not say it now.
    pub(crate) fn say(&self, log: impl FnOnce(u64)) {
        // Nothing that holds the lock can panic half-way.
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
