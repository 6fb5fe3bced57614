//! Terms that are fenced out shortly after they began, again and again: most often by a caller whose guard names
//! another key than the lock key in the store.

use std::time::Duration;

use crate::clock::Instant;
use crate::status::Reason;

/// The number of terms in a row that are fenced out early, from which on the reason says so.
const MIN_REPEATED: u32 = 3;

/// Counts the terms in a row that were fenced out early.
#[derive(Debug)]
pub(super) struct EarlyEnds {
    /// A term that is fenced out before this age has ended early.
    early: Duration,
    began: Option<Instant>,
    count: u32,
}

impl EarlyEnds {
    pub(super) const fn new(early: Duration) -> Self {
        Self {
            early,
            began: None,
            count: 0,
        }
    }

    /// A term begins.
    pub(super) fn began(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// The term was fenced out. Returns the reason to publish.
    pub(super) fn fenced_out(&mut self, now: Instant) -> Reason {
        let age = self
            .began
            .take()
            .map_or(self.early, |began| now.saturating_since(began));
        self.count = if age < self.early {
            self.count.saturating_add(1)
        } else {
            0
        };
        if self.count < MIN_REPEATED {
            Reason::FencedOut
        } else {
            Reason::FencedOutRepeatedly { terms: self.count }
        }
    }

    /// Whether the last term was fenced out early, so that the next round is no proof of success: a term must last
    /// first.
    pub(super) fn are_suspected(&mut self, now: Instant) -> bool {
        if self.began.is_some_and(|began| now >= began + self.early) {
            self.count = 0;
        }
        self.count > 0
    }

    /// The terms ended for another reason.
    pub(super) fn reset(&mut self) {
        self.began = None;
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: Duration = Duration::from_secs(6);

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn third_term_in_a_row_that_is_fenced_out_early_is_told() {
        let mut ends = EarlyEnds::new(EARLY);
        for expected in [
            Reason::FencedOut,
            Reason::FencedOut,
            Reason::FencedOutRepeatedly { terms: 3 },
            Reason::FencedOutRepeatedly { terms: 4 },
        ] {
            ends.began(at(10));
            assert_eq!(ends.fenced_out(at(11)), expected);
            assert!(ends.are_suspected(at(12)));
        }
        let text = Reason::FencedOutRepeatedly { terms: 4 }.to_string();
        assert!(text.contains("namespace") && text.contains("4 terms"), "{text}");
    }

    #[test]
    fn term_that_lasts_ends_the_suspicion() {
        let mut ends = EarlyEnds::new(EARLY);
        ends.began(at(0));
        ends.fenced_out(at(1));
        ends.began(at(2));
        assert!(ends.are_suspected(at(7)));
        assert!(!ends.are_suspected(at(8)));
        for _ in 0..4 {
            ends.began(at(10));
            assert_eq!(ends.fenced_out(at(16)), Reason::FencedOut);
            assert!(!ends.are_suspected(at(17)));
        }
        ends.began(at(20));
        ends.fenced_out(at(21));
        ends.reset();
        assert!(!ends.are_suspected(at(21)));
    }
}
