//! How many calls of one connection are taken in before all else that is ready on its thread has its turn.
//!
//! Many at a time cost less each. But a client that gives up what it has just called may send calls faster than they are sampled at, each of
//! them costs nearly as much as one that is answered, and whoever else is on the thread stands behind all that were taken in. So
//! the calls of such a client are taken in few at a time.

/// As many at a time as a rule.
const MAX_BATCH: u64 = 64;
/// As many of a client that gives up its calls.
const MIN_BATCH: u64 = 8;
/// How many calls there are between two looks at how many were given up.
const SAMPLE_SIZE: u64 = 64;
/// One that gives up this part of them gives up its calls.
const CANCELLED_DIVISOR: u64 = 4;

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct AcceptBatch {
    at_a_time: u64,
    /// Since the others had their turn, and since the last look.
    taken: u64,
    sampled: u64,
    /// How many were given up by the last look.
    cancelled: u64,
}

impl AcceptBatch {
    pub(super) const fn new() -> Self {
        Self {
            at_a_time: MAX_BATCH,
            taken: 0,
            sampled: 0,
            cancelled: 0,
        }
    }

    /// A call was taken in, and so many of this connection have been given up so far. Says whether it is the others' turn.
    pub(super) const fn takes(&mut self, cancelled: u64) -> bool {
        self.sampled += 1;
        if self.sampled == SAMPLE_SIZE {
            self.sampled = 0;
            let lately = cancelled - self.cancelled;
            self.cancelled = cancelled;
            self.at_a_time = if lately >= SAMPLE_SIZE / CANCELLED_DIVISOR {
                MIN_BATCH
            } else {
                MAX_BATCH
            };
        }
        self.taken += 1;
        let turn = self.taken >= self.at_a_time;
        if turn {
            self.taken = 0;
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often others have their turn while so many calls are taken in, one in `part` of which is given up.
    fn turns(accept_batch: &mut AcceptBatch, cancelled: &mut u64, calls: u64, part: Option<u64>) -> u64 {
        let mut turns = 0;
        for call in 0..calls {
            if part.is_some_and(|part| call % part == 0) {
                *cancelled += 1;
            }
            turns += u64::from(accept_batch.takes(*cancelled));
        }
        turns
    }

    #[test]
    fn calls_that_are_given_up_are_taken_in_few_at_a_time() {
        let (mut accept_batch, mut cancelled) = (AcceptBatch::new(), 0);
        let mut turns = |calls, part| turns(&mut accept_batch, &mut cancelled, calls, part);
        assert_eq!(turns(6_400, None), 100);
        // Now and then a call is given up.
        assert_eq!(turns(6_400, Some(5)), 100);
        // Most of them: known after the first look.
        assert_eq!(turns(640, Some(2)), 1 + 72);
        assert_eq!(turns(640, Some(1)), 80);
        // It is as before soon after that ends.
        assert!(turns(640, None) <= 8 + 10);
        assert_eq!(turns(6_400, None), 100);
    }
}
