//! The model as the checker wants it: a state, and what an action makes of it.
use stateright::{Model, Property};

use crate::actions::Action;
use crate::bounds::{Challenges, Pace};
use crate::properties;
use crate::safeguard::Without;
use crate::state::{CANDIDATES, Candidate, Message, Role, Round, State, Suspicion, UNBOUND};
use crate::store::{MAX_TERMS, Store};

impl Challenges {
    fn tick(&self, state: &mut State, fast: u8) {
        for number in 0..CANDIDATES {
            state.advance(number, self.clocks.advance(fast >> number & 1 == 1), self.longest_gap());
            if let Some(round) = state.round_mut(number) {
                round.looked = false;
            }
        }
        if self.pace == Pace::AllPrompt {
            let led = self.valid(state).next().is_some();
            let dead = state
                .store
                .oldest()
                .is_some_and(|oldest| state.of_term(oldest).is_none());
            // Beyond the bound of the model nothing is told.
            let may = state.challenges_left > 0 || state.rounds().any(|(_, round)| round.suspicion != Suspicion::None);
            state.leaderless = if led || !may || !(dead || state.leaderless > 0) || state.rounds().next().is_none() {
                0
            } else {
                state
                    .leaderless
                    .saturating_add(1)
                    .min(properties::max_leaderless(self) + 1)
            };
        }
    }
}

impl Model for Challenges {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        assert!(
            usize::from(self.rounds) <= MAX_TERMS,
            "the store has room for all rounds"
        );
        vec![State {
            store: Store::new(self.without),
            candidates: [Candidate::Out; CANDIDATES],
            begun: 0,
            messages: Vec::new(),
            challenges_left: self.challenges,
            kills_left: self.kills,
            removals_left: self.removals,
            stalled: false,
            leaderless: 0,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Queue(number) => {
                let limit = self.limits[number];
                let own = state
                    .store
                    .queue(u8::try_from(number).ok()?, self.is_bound(number).then_some(limit));
                state.candidates[number] = Candidate::In(Round::new(own, limit));
                state.begun = state.begun.max(u8::try_from(number).ok()? + 1);
            }
            Action::LeaseEnds(term) => state.store.end_lease(term),
            Action::Leave(number) => {
                if self.pace != Pace::Free && state.round(number)?.role != Role::Ended {
                    state.kills_left -= 1;
                    state.leaderless = 0;
                }
                state.candidates[number] = Candidate::Out;
            }
            Action::StepDown(number) => {
                let round = state.round_mut(number)?;
                round.role = Role::Ended;
                round.ended = true;
            }
            Action::Read(number) => {
                let round = state.round(number)?;
                let read = Message::Read {
                    of: round.own,
                    worth: self.worth(round),
                };
                state.messages.push(read);
            }
            Action::Suspect(number) => {
                let round = *state.round(number)?;
                let against = self.accused(&state, &round)?;
                let known = state.store.revision(against);
                let limit = state.store.challenge_key(against).map_or(round.limit, |key| key.limit);
                let counts = self.lacks(Without::WaitFromAnswer) || self.lacks(Without::WaitFromAnswerOfPoll);
                let left = if counts { self.wait(limit, round.limit) } else { 0 };
                state.round_mut(number)?.suspicion = Suspicion::Asked { against, left };
                state.challenges_left -= 1;
                state.messages.push(Message::Challenge {
                    by: round.own,
                    against,
                    known,
                });
            }
            Action::CountOn(number) => {
                let round = *state.round(number)?;
                let against = self.accused(&state, &round)?;
                let key = state.store.challenge_key(against)?;
                let whole = self.wait(key.limit, round.limit);
                let left = match round.suspicion {
                    Suspicion::Asked { left, .. } if self.lacks(Without::WaitFromAnswerOfPoll) => left,
                    _ => whole,
                };
                state.round_mut(number)?.suspicion = self.waits(against, key.revision, left);
            }
            Action::Forget(number) => state.round_mut(number)?.suspicion = Suspicion::None,
            Action::Poll(number) => {
                let longest = self.longest_gap();
                if let Suspicion::Waits { uncounted, since, .. } = &mut state.round_mut(number)?.suspicion {
                    if *since < longest {
                        *uncounted = uncounted.saturating_sub(*since);
                    }
                    *since = 0;
                }
            }
            Action::Depose(number) => {
                let round = state.round_mut(number)?;
                let Suspicion::Waits { against, challenge, .. } = round.suspicion else {
                    return None;
                };
                round.suspicion = Suspicion::None;
                let by = round.own;
                state.messages.push(Message::Depose { by, against, challenge });
            }
            Action::Serve(request) => {
                let at = state.messages.iter().position(|message| *message == request)?;
                state.messages.remove(at);
                let answer = self.serve(&mut state, request);
                state.messages.extend(answer);
            }
            Action::Deliver { message, again } => {
                if !again {
                    let at = state.messages.iter().position(|other| *other == message)?;
                    state.messages.remove(at);
                }
                let next = self.deliver(&mut state, message);
                state.messages.extend(next);
            }
            Action::Lose(lost) => {
                let at = state.messages.iter().position(|message| *message == lost)?;
                state.messages.remove(at);
            }
            Action::RemoveChallengeKey(term) => {
                state.store.remove_challenge_key(term);
                state.removals_left -= 1;
            }
            Action::ChangeLimit(number) => {
                let lower = self.lacks(Without::LimitNotLowered);
                let round = state.round_mut(number)?;
                round.limit = if lower { round.limit / 2 } else { round.limit * 2 };
                let (own, limit) = (round.own, round.limit);
                if self.lacks(Without::LimitNotSwitchedOff)
                    && let Role::Leads { left } = &mut round.role
                {
                    *left = UNBOUND;
                }
                let seen = state.store.revision(own);
                if lower {
                    state.store.refute(own, seen, limit, self.without);
                }
            }
            Action::Stall => state.stalled = true,
            Action::Resume => state.stalled = false,
            Action::Tick(fast) => self.tick(&mut state, fast),
        }
        self.simplify(&mut state);
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}
