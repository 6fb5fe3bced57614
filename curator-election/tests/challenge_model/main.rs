//! A formal model of the challenge, by which a dead leader is replaced within a limit L and not within a lease, checked
//! exhaustively for three candidates within small bounds.
//!
//! Each candidate has two keys under one lease: the *lock key*, by whose create revision it is queued, and the
//! *challenge key*. A leader reads both at short intervals. A read that shows that its challenge key is clear keeps its
//! term valid until L - m after the time that was taken before the read was sent. Whoever suspects the oldest candidate
//! writes a challenge into its challenge key, waits for W = L + m by its own clock, and removes both keys if the
//! challenge has not been overwritten meanwhile. The accused overwrites it if it is alive: it *refutes* the challenge.
//! A leader whose deadline has passed is suspended; the next acknowledged read or refutation makes its term valid
//! again.
//!
//! Time is in ticks, and L is two of them. In each tick each clock advances by 9 or by 11 units, whichever is worse, so
//! that rates differ by a tenth each way; m is a tenth of L. What a process does takes no time and happens when it
//! likes: it may be paused before each step, and between taking the time and sending. Requests and answers take as long
//! as one likes, are lost, and overtake each other; answers come twice; a request of a process that is gone is still
//! served. Suspicions come at any time. A candidate counts on a challenge that it finds, be it its own whose answer was
//! lost or that of another. Leases end at any time, unless that is before the deadline of a leader. A candidate that
//! leaves and queues up again is one that was killed and restarted, and removes its earlier keys or not.
//!
//! Each safeguard is taken out in turn, and the checker must find what goes wrong then.
//!
//! # Bounds
//!
//! Three lock keys and one challenge, or two of each; two or three messages on their way; one read of a candidate at a
//! time, or two. With `CURATOR_MODEL_DEEP=1` three lock keys and two challenges (minutes).
//! Timers that have run out, messages that can have no effect and keys of the past are left out of the state, so that
//! time has no bound.
//!
//! # Left to the simulation
//!
//! The back-off after a refutation; the bound of a suspension; members that answer at different times, and hedged
//! reads, beyond reads that overtake each other; clocks that stand still or differ by more; a restored backup; which
//! suspicion is raised when. That one who is alive is not deposed is shown for one whose reads and refutations are
//! carried out in each tick in which etcd answers at all: an etcd that answers the challenger and not the accused for
//! as long as W does change the leader.
#![forbid(unsafe_code)]

use std::env;

use crate::bounds::{Challenges, Pace};
use crate::checking::{all_hold, is_broken};
use crate::properties::{
    DEAD_IS_REPLACED, ENDED_IS_FINAL, HAS_KEY, ONE_VALID, PROMPT_STAYS, QUEUE_GOES_ON, REFUTED_STAYS,
};
use crate::safeguard::Without;

mod actions;
mod bounds;
#[path = "../shared/checking.rs"]
mod checking;
mod clocks;
mod messages;
mod model;
mod properties;
mod safeguard;
mod simplify;
mod state;
mod store;

/// Without the safeguard the checker finds how the property is broken.
fn needs(model: Challenges, safeguard: Without, property: &'static str) {
    is_broken(model.without(safeguard), &safeguard, property);
}

const fn two() -> Challenges {
    Challenges::new(2, 1, 2)
}

const fn outage(rounds: u8, challenges: u8) -> Challenges {
    Challenges {
        pace: Pace::AccusedPrompt,
        ..Challenges::new(rounds, challenges, 3)
    }
}

const fn deaths(kills: u8) -> Challenges {
    Challenges {
        pace: Pace::AllPrompt,
        kills,
        ..Challenges::new(3, kills + 2, 6)
    }
}

#[test]
fn three_candidates_have_one_valid_term() {
    all_hold(Challenges::new(3, 1, 2));
    if env::var_os("CURATOR_MODEL_DEEP").is_some() {
        all_hold(Challenges::new(3, 2, 2));
        all_hold(outage(3, 2));
    }
}

#[test]
fn challenges_that_follow_each_other_have_one_valid_term() {
    all_hold(Challenges::new(2, 2, 3));
}

#[test]
fn reads_that_overtake_each_other_have_one_valid_term() {
    all_hold(Challenges {
        reads: 2,
        ..Challenges::new(2, 1, 3)
    });
}

/// Of four ticks.
#[test]
fn longer_limit_has_one_valid_term() {
    all_hold(Challenges {
        limits: [40; 3],
        ..two()
    });
}

#[test]
fn limits_that_differ_have_one_valid_term() {
    for limits in [[40, 20, 20], [20, 40, 20]] {
        all_hold(Challenges { limits, ..two() });
    }
}

#[test]
fn candidates_without_challenge_key_have_one_valid_term() {
    for number in [0, 1] {
        all_hold(Challenges {
            without_challenge_key: Some(number),
            ..Challenges::new(3, 1, 1)
        });
    }
}

#[test]
fn challenge_key_removed_by_hand_has_one_valid_term() {
    all_hold(Challenges { removals: 1, ..two() });
}

#[test]
fn term_ended_on_request_stays_ended() {
    all_hold(Challenges {
        step_down: true,
        ..two()
    });
}

/// However long etcd does not answer, and however often.
#[test]
fn outage_of_etcd_changes_no_leader() {
    all_hold(outage(2, 2));
    all_hold(outage(3, 1));
}

/// Leases never end here.
#[test]
fn dead_leaders_are_replaced_within_the_wait() {
    all_hold(deaths(1));
    all_hold(deaths(2));
}

#[test]
fn deadline_of_a_term_needs_each_safeguard() {
    needs(two(), Without::ReadChecksChallenge, ONE_VALID);
    needs(two(), Without::VictoryChecksChallenge, ONE_VALID);
    needs(two(), Without::BoundFromTheStart, ONE_VALID);
    needs(two(), Without::DeadlineFromSending, ONE_VALID);
    needs(two(), Without::EarlierDeadline, ONE_VALID);
    needs(two(), Without::LimitNotRaised, ONE_VALID);
    needs(two(), Without::LimitNotLowered, ONE_VALID);
    needs(two(), Without::LimitNotSwitchedOff, ONE_VALID);
    let stepping_down = Challenges {
        step_down: true,
        ..two()
    };
    needs(stepping_down, Without::EndedIsFinal, ENDED_IS_FINAL);
    needs(two(), Without::GuardOfRefutation, HAS_KEY);
}

#[test]
fn deposing_needs_each_safeguard() {
    needs(two(), Without::WaitFromAnswer, ONE_VALID);
    needs(two(), Without::WaitFromAnswerOfPoll, ONE_VALID);
    needs(two(), Without::MarginForRates, ONE_VALID);
    needs(two(), Without::CompareOfRevision, ONE_VALID);
    needs(two(), Without::CompareOfRevision, REFUTED_STAYS);
    needs(two(), Without::DeposerIsQueued, QUEUE_GOES_ON);
    needs(Challenges::new(3, 1, 2), Without::ChallengeKeyPerTerm, ONE_VALID);
    let longer = Challenges {
        limits: [40, 20, 20],
        ..two()
    };
    needs(longer, Without::LimitOfAccused, ONE_VALID);
    let without_key = Challenges {
        without_challenge_key: Some(0),
        ..two()
    };
    needs(without_key, Without::RevisionAboveZero, ONE_VALID);
}

#[test]
fn changes_of_leader_need_each_safeguard() {
    needs(outage(2, 1), Without::CountedTime, PROMPT_STAYS);
    needs(deaths(1), Without::ChallengeOfOtherStands, DEAD_IS_REPLACED);
}
