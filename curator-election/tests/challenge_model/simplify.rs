//! States that differ in nothing that can still matter are one.
use crate::bounds::{Challenges, Pace};
use crate::safeguard::Without;
use crate::state::{CANDIDATES, Message, Role, State, Suspicion};
use crate::store::{Look, Term};

impl Challenges {
    /// Makes states one that differ in nothing that can still matter.
    pub(crate) fn simplify(&self, state: &mut State) {
        let compares = !self.lacks(Without::CompareOfRevision) && !self.lacks(Without::ChallengeKeyPerTerm);
        let guarded = !self.lacks(Without::GuardOfRefutation);
        let messages = std::mem::take(&mut state.messages);
        let matters = |message: &Message| {
            let store = &state.store;
            let sender = state.of_term(message.sender()).map(|(_, round)| round);
            let queued = |by: Term| store.holds(by) || self.lacks(Without::DeposerIsQueued);
            match *message {
                Message::Read { .. } => sender.is_some_and(|round| round.role != Role::Ended),
                Message::Seen { worth, look, .. } => sender.is_some_and(|round| match (round.role, look) {
                    (Role::Leads { left }, Look::Clear { .. }) => {
                        worth > left || self.lacks(Without::DeadlineFromSending) || self.pace != Pace::Free
                    }
                    (Role::Queued, Look::Clear { oldest }) => oldest || self.pace != Pace::Free,
                    (Role::Ended, Look::Clear { .. }) => self.lacks(Without::EndedIsFinal),
                    (Role::Ended, _) => false,
                    _ => true,
                }),
                Message::Refute { of, seen, .. } => {
                    (store.holds(of) && store.revision(of) == seen) || (!guarded && store.of(of).lease)
                }
                Message::Refuted { worth, .. } => sender.is_some_and(|round| match round.role {
                    Role::Leads { left } => worth > left,
                    _ => false,
                }),
                Message::Challenge { by, against, known } => {
                    store.holds(against) && store.revision(against) == known && queued(by)
                }
                Message::Challenged { against, .. } => sender.is_some_and(
                    |round| matches!(round.suspicion, Suspicion::Asked { against: asked, .. } if asked == against),
                ),
                Message::Depose { by, against, challenge } => {
                    (store.holds(against) && store.revision(against) == challenge || !compares) && queued(by)
                }
            }
        };
        let mut kept: Vec<_> = messages.into_iter().filter(matters).collect();
        kept.sort_unstable();
        state.messages = kept;
        for number in 0..CANDIDATES {
            let Some(round) = state.round(number) else {
                continue;
            };
            let own = round.own;
            let idle = match round.suspicion {
                Suspicion::None => false,
                Suspicion::Asked { against, .. } => {
                    let asks = |message: &Message| {
                        message.sender() == own
                            && matches!(message, Message::Challenge { .. } | Message::Challenged { .. })
                    };
                    let found = state.store.challenge_key(against).is_some_and(|key| key.challenged);
                    !(state.messages.iter().any(asks) || found && state.store.oldest() == Some(against))
                }
                Suspicion::Waits { against, challenge, .. } => {
                    compares && (!state.store.holds(against) || state.store.revision(against) != challenge)
                }
            };
            if idle && let Some(round) = state.round_mut(number) {
                round.suspicion = Suspicion::None;
            }
        }
        for term in state.store.terms() {
            let asked = state.of_term(term).is_some() || state.messages.iter().any(|message| message.sender() == term);
            if !asked && !state.store.holds(term) {
                state.store.forget(term);
            }
        }
    }
}
