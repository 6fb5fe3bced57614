//! How many calls of one connection are accepted before other tasks of the thread may run.
//!
//! Large batches are cheaper. But a client that cancels its calls at once can send calls faster than they are
//! accepted. Each of them costs nearly as much as an answered one, and all other tasks of the thread wait for the
//! whole batch. So the batches of such a client are small.

/// The ordinary batch size.
const MAX_BATCH: u64 = 64;
/// The batch size for a client that cancels its calls.
const MIN_BATCH: u64 = 8;
/// The number of calls after which the cancelled ones are counted.
const SAMPLE_SIZE: u64 = 64;
/// A client that cancels this part of its calls gets small batches.
const CANCELLED_DIVISOR: u64 = 4;

/// The batches of one connection.
#[derive(Debug)]
pub(super) struct AcceptBatch {
    at_a_time: u64,
    /// The calls since the last yield, and since the last count.
    taken: u64,
    sampled: u64,
    /// The number of cancelled calls at the last count.
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

    /// Counts one accepted call, given the number of cancelled calls of the connection so far. Returns whether to
    /// yield.
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

    /// How often other tasks run while this many calls are accepted, one in `part` of which is cancelled.
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
        // Some calls are cancelled.
        assert_eq!(turns(6_400, Some(5)), 100);
        // Most calls are cancelled: noticed with the first count.
        assert_eq!(turns(640, Some(2)), 1 + 72);
        assert_eq!(turns(640, Some(1)), 80);
        // The ordinary size is restored soon after that ends.
        assert!(turns(640, None) <= 8 + 10);
        assert_eq!(turns(6_400, None), 100);
    }
}
