//! How many calls of one connection are taken in before all else that is ready on its thread has its turn.
//!
//! Many at a time cost less each. But a client that gives up what it has just called may send calls faster than they are looked at, each of
//! them costs nearly as much as one that is answered, and whoever else is on the thread stands behind all that were taken in. So
//! the calls of such a client are taken in few at a time.

/// As many at a time as a rule.
const MOST: u64 = 64;
/// As many of a client that gives up its calls.
const LEAST: u64 = 8;
/// How many calls there are between two looks at how many were given up.
const LOOK: u64 = 64;
/// One that gives up this part of them gives up its calls.
const PART: u64 = 4;

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Intake {
    at_a_time: u64,
    /// Since the others had their turn, and since the last look.
    taken: u64,
    looked: u64,
    /// How many were given up by the last look.
    given_up: u64,
}

impl Intake {
    pub(super) const fn new() -> Self {
        Self {
            at_a_time: MOST,
            taken: 0,
            looked: 0,
            given_up: 0,
        }
    }

    /// A call was taken in, and so many of this connection have been given up so far. Says whether it is the others' turn.
    pub(super) const fn takes(&mut self, given_up: u64) -> bool {
        self.looked += 1;
        if self.looked == LOOK {
            self.looked = 0;
            let lately = given_up - self.given_up;
            self.given_up = given_up;
            self.at_a_time = if lately >= LOOK / PART { LEAST } else { MOST };
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
    fn turns(intake: &mut Intake, given_up: &mut u64, calls: u64, part: Option<u64>) -> u64 {
        let mut turns = 0;
        for call in 0..calls {
            if part.is_some_and(|part| call % part == 0) {
                *given_up += 1;
            }
            turns += u64::from(intake.takes(*given_up));
        }
        turns
    }

    #[test]
    fn calls_that_are_given_up_are_taken_in_few_at_a_time() {
        let (mut intake, mut given_up) = (Intake::new(), 0);
        let mut turns = |calls, part| turns(&mut intake, &mut given_up, calls, part);
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
