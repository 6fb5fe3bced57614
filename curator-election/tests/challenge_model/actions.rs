//! What may happen in a state.
use crate::bounds::{Challenges, Pace};
use crate::safeguard::Without;
use crate::state::{CANDIDATES, Message, Role, Round, State, Suspicion, UNBOUND};
use crate::store::Term;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Puts its keys.
    Queue(usize),
    /// The lease runs out, or is revoked. So it is if a process that has started anew removes its earlier keys.
    LeaseEnds(Term),
    /// Is killed, or ends its round.
    Leave(usize),
    StepDown(usize),
    /// Takes the time, and then hands a read over.
    Read(usize),
    Suspect(usize),
    /// Waits for a challenge that it finds in the store: its own, whose answer was lost, or that of another.
    CountOn(usize),
    Forget(usize),
    Poll(usize),
    Depose(usize),
    Serve(Message),
    Deliver {
        message: Message,
        /// It comes once more later.
        again: bool,
    },
    Lose(Message),
    RemoveChallengeKey(Term),
    ChangeLimit(usize),
    Stall,
    Resume,
    /// Time goes on. Each bit is a clock that is fast.
    Tick(u8),
}

impl Challenges {
    pub(crate) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        let free = self.pace == Pace::Free;
        for number in 0..CANDIDATES {
            match state.round(number) {
                Some(round) => self.actions_of(state, number, round, actions),
                None => {
                    let is_next = number == usize::from(state.begun);
                    // Who has died where leases last does not come back: its keys would be its own to remove.
                    let comes_back = number < usize::from(state.begun) && free;
                    if state.store.put() < self.rounds && (is_next || comes_back) {
                        actions.push(Action::Queue(number));
                    }
                }
            }
        }
        for term in state.store.terms() {
            let keys = state.store.of(term);
            if free && keys.lease {
                actions.push(Action::LeaseEnds(term));
            }
            if keys.lock && keys.challenge.is_some() && state.removals_left > 0 {
                actions.push(Action::RemoveChallengeKey(term));
            }
        }
        for message in state.messages.iter().copied() {
            if !message.is_request() {
                actions.push(Action::Deliver { message, again: false });
                if free && self.has_room(state) {
                    actions.push(Action::Deliver { message, again: true });
                }
            } else if !state.stalled {
                actions.push(Action::Serve(message));
            }
            if free {
                actions.push(Action::Lose(message));
            }
        }
        let done = state.rounds().all(|(_, round)| self.is_done(state, round));
        if self.pace == Pace::AccusedPrompt {
            if state.stalled {
                actions.push(Action::Resume);
            } else if done {
                actions.push(Action::Stall);
            }
        }
        if free || done || state.stalled {
            let running: Vec<_> = (0..CANDIDATES).filter(|number| state.has_timer(*number)).collect();
            if !running.is_empty() || !free {
                for subset in 0..1_u8 << running.len() {
                    let fast = running
                        .iter()
                        .enumerate()
                        .filter(|(bit, _)| subset >> bit & 1 == 1)
                        .map(|(_, number)| 1 << number)
                        .sum();
                    actions.push(Action::Tick(fast));
                }
            }
        }
    }

    /// Whether this one has done all that it does in a tick in which etcd answers.
    fn is_done(&self, state: &State, round: &Round) -> bool {
        if round.role == Role::Ended {
            return false;
        }
        let mut own = state.messages.iter().filter(|message| message.sender() == round.own);
        if self.pace == Pace::AccusedPrompt {
            let of_accused = |message: &Message| {
                message.is_look() || matches!(message, Message::Refute { .. } | Message::Refuted { .. })
            };
            return round.looked && !own.any(of_accused);
        }
        let idle_before_the_dead = round.role == Role::Queued
            && state.challenges_left > 0
            && round.suspicion == Suspicion::None
            && self.accused(state, round).is_some_and(|oldest| {
                let next = state.rounds().map(|(_, round)| round.own).min();
                state.of_term(oldest).is_none() && next == Some(round.own)
            });
        let wins = round.role == Role::Queued && state.store.is_oldest(round.own);
        let suspects = match round.suspicion {
            Suspicion::None => true,
            Suspicion::Asked { .. } => false,
            Suspicion::Waits {
                left, uncounted, since, ..
            } => since == 0 && (left > 0 || uncounted > 0),
        };
        round.looked && state.messages.is_empty() && !idle_before_the_dead && !wins && suspects
    }

    fn actions_of(&self, state: &State, number: usize, round: &Round, actions: &mut Vec<Action>) {
        let free = self.pace == Pace::Free;
        let bound = self.is_bound(number);
        if free || state.kills_left > 0 || round.role == Role::Ended {
            actions.push(Action::Leave(number));
        }
        if self.step_down && matches!(round.role, Role::Leads { .. }) {
            actions.push(Action::StepDown(number));
        }
        let reads = state
            .messages
            .iter()
            .filter(|message| message.sender() == round.own && message.is_look())
            .count();
        // Who has become the oldest looks at once.
        let wins = round.role == Role::Queued && state.store.is_oldest(round.own);
        let wants_read = match round.role {
            // An earlier read of a later oldest one shows the same and is worth less.
            Role::Queued => wins || !free,
            Role::Leads { left } => left != UNBOUND && bound,
            Role::Ended => false,
        };
        if wants_read && reads < self.reads && self.has_room(state) && (free || !round.looked || wins) {
            actions.push(Action::Read(number));
        }
        let changes = matches!(
            self.without,
            Without::LimitNotRaised | Without::LimitNotLowered | Without::LimitNotSwitchedOff
        );
        if changes && matches!(round.role, Role::Leads { .. }) && round.limit == self.limits[number] {
            actions.push(Action::ChangeLimit(number));
        }
        if !bound || round.role != Role::Queued {
            return;
        }
        match round.suspicion {
            Suspicion::None => {
                if let Some(accused) = self.accused(state, round) {
                    let challenged = state.store.challenge_key(accused).is_some_and(|key| key.challenged);
                    // Wrong ones leave as many as the dead need.
                    let needed = if !free && state.of_term(accused).is_some() {
                        self.kills
                    } else {
                        0
                    };
                    let may = state.challenges_left > needed && self.has_room(state);
                    if may && (free || !challenged || self.lacks(Without::ChallengeOfOtherStands)) {
                        actions.push(Action::Suspect(number));
                    }
                    if challenged {
                        actions.push(Action::CountOn(number));
                    }
                }
            }
            Suspicion::Asked { against, .. } => {
                if state.store.oldest() == Some(against)
                    && state.store.challenge_key(against).is_some_and(|key| key.challenged)
                {
                    actions.push(Action::CountOn(number));
                }
                if free {
                    actions.push(Action::Forget(number));
                }
            }
            Suspicion::Waits {
                left, uncounted, since, ..
            } => {
                if left == 0 && uncounted == 0 && self.has_room(state) {
                    actions.push(Action::Depose(number));
                }
                if free {
                    actions.push(Action::Forget(number));
                } else if since > 0 && !state.stalled {
                    actions.push(Action::Poll(number));
                }
            }
        }
    }
}
