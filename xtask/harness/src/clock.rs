//! Upper bounds of waits.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::signals;

/// How often a condition that nothing announces is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The moment at which a wait gives up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    within: Duration,
}

impl Deadline {
    /// This long from now.
    pub fn after(within: Duration) -> Self {
        Self {
            at: Instant::now() + within,
            within,
        }
    }

    /// What is left of it; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The error for a wait that came to nothing.
    pub fn missed(&self, what: impl fmt::Display) -> Error {
        Error::new(format!("waited {:?} in vain for {what}", self.within))
    }
}

/// Looks every few milliseconds until `look` answers with something, and hands that back.
///
/// # Errors
/// When `within` has passed, or when the program was told to stop.
pub fn wait_until<T>(what: impl fmt::Display, within: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Deadline::after(within);
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if let Some(signal) = signals::received() {
            return Err(Error::new(format!("stopped by {signal} while waiting for {what}")));
        }
        if deadline.passed() {
            return Err(deadline.missed(what));
        }
        thread::sleep(LOOK.min(deadline.remaining()));
    }
}

/// Reads `500ms`, `5s`, `2m` or `1h`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_was_seen_or_at_its_bound() {
        let mut looks = 0;
        let seen = wait_until("three looks", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen.unwrap(), 3);

        let started = Instant::now();
        let missed = wait_until("nothing", Duration::from_millis(50), || None::<()>).unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(50));
        assert_eq!(missed.to_string(), "waited 50ms in vain for nothing");
    }
}
