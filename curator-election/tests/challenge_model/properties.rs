//! What must hold in each state, and what must be possible, so that it does not hold for want of anything happening.
use stateright::Property;

use crate::bounds::{Challenges, Pace};
use crate::state::{Message, Role, Round, State, Suspicion};
use crate::store::Broken;

pub(crate) const ONE_VALID: &str = "at most one term is valid";
pub(crate) const HAS_KEY: &str = "a valid term has its lock key";
pub(crate) const ENDED_IS_FINAL: &str = "an ended term is never valid again";
pub(crate) const QUEUE_GOES_ON: &str = "whoever deposes is queued";
pub(crate) const REFUTED_STAYS: &str = "a refuted challenge deposes nobody";
pub(crate) const PROMPT_STAYS: &str = "nobody deposes one who is alive and whose etcd answers";
pub(crate) const DEAD_IS_REPLACED: &str = "the dead are replaced within their waits and a poll";

/// For how many ticks nobody leads after the last death, if limits are of two ticks: for each of the dead, the wait by
/// a slow clock takes three, and the last of them is counted at the next poll.
pub(crate) const fn max_leaderless(model: &Challenges) -> u8 {
    4 * model.kills
}

pub(crate) fn of(model: &Challenges) -> Vec<Property<Challenges>> {
    let mut properties = always();
    properties.extend(match model.pace {
        Pace::Free => vec![next_leads(), goes_on()],
        Pace::AccusedPrompt => vec![prompt_stays(), long_stall()],
        Pace::AllPrompt => vec![next_leads(), prompt_stays(), dead_is_replaced()],
    });
    properties
}

fn always() -> Vec<Property<Challenges>> {
    vec![
        Property::always(ONE_VALID, |model: &Challenges, state: &State| {
            model.valid(state).count() <= 1
        }),
        Property::always(HAS_KEY, |model: &Challenges, state: &State| {
            model.valid(state).all(|term| state.store.holds(term))
        }),
        Property::always(ENDED_IS_FINAL, |model: &Challenges, state: &State| {
            state
                .rounds()
                .all(|(_, round)| !(round.ended && model.is_valid(state, round)))
        }),
        Property::always(QUEUE_GOES_ON, |_, state: &State| {
            state.broken != Some(Broken::QueueEmptied)
        }),
        Property::always(REFUTED_STAYS, |_, state: &State| {
            state.broken != Some(Broken::DeposedThoughRefuted)
        }),
    ]
}

fn prompt_stays() -> Property<Challenges> {
    Property::always(PROMPT_STAYS, |_, state: &State| {
        state.broken != Some(Broken::DeposedAlive)
    })
}

fn dead_is_replaced() -> Property<Challenges> {
    Property::always(DEAD_IS_REPLACED, |model: &Challenges, state: &State| {
        state.leaderless <= max_leaderless(model)
    })
}

fn next_leads() -> Property<Challenges> {
    Property::sometimes(
        "somebody leads after the first term",
        |model: &Challenges, state: &State| model.valid(state).any(|term| term > 1),
    )
}

fn goes_on() -> Property<Challenges> {
    Property::sometimes("a suspended term is about to go on", |_, state: &State| {
        state.messages.iter().any(|message| match *message {
            Message::Refuted { of, worth: 1.. } => {
                let suspended = |(_, round): (usize, &Round)| round.role == Role::Leads { left: 0 };
                state.store.of(of).lease && state.of_term(of).is_some_and(suspended)
            }
            _ => false,
        })
    })
}

fn long_stall() -> Property<Challenges> {
    Property::sometimes("etcd does not answer for as long as the wait", |_, state: &State| {
        let waited = |(_, round): (usize, &Round)| matches!(round.suspicion, Suspicion::Waits { left: 0, .. });
        state.stalled && state.rounds().any(waited)
    })
}
