//! What becomes of a message: of a request at etcd, and of an answer at the candidate.
use crate::bounds::{Challenges, Pace};
use crate::safeguard::Without;
use crate::state::{Candidate, Message, Role, State, Suspicion, UNBOUND};
use crate::store::{Broken, Look};

impl Challenges {
    /// A request reaches etcd: what is on its way afterwards.
    pub(crate) fn serve(&self, state: &mut State, request: Message) -> Option<Message> {
        match request {
            Message::Read { of, worth } => {
                let (_, round) = state.of_term(of)?;
                let checks = if round.role == Role::Queued {
                    !self.lacks(Without::VictoryChecksChallenge) && !self.lacks(Without::ChallengeKeyPerTerm)
                } else {
                    !self.lacks(Without::ReadChecksChallenge)
                };
                let look = state.store.look(of, checks);
                Some(Message::Seen { of, worth, look })
            }
            Message::Refute { of, worth, seen } => {
                let limit = state.of_term(of).map_or(self.limits[0], |(_, round)| round.limit);
                state
                    .store
                    .refute(of, seen, limit, self.without)
                    .then_some(Message::Refuted { of, worth })
            }
            Message::Challenge { by, against, known } => {
                let limit = state
                    .store
                    .challenge_key(against)
                    .map_or(self.limits[0], |key| key.limit);
                let challenge = state.store.challenge(by, against, known, limit, self.without)?;
                Some(Message::Challenged {
                    by,
                    against,
                    challenge,
                    limit,
                })
            }
            Message::Depose { by, against, challenge } => {
                let (deposed, broken) = state.store.depose(by, against, challenge, self.without)?;
                let alive = self.pace != Pace::Free && state.of_term(deposed).is_some();
                state.broken = broken.or(alive.then_some(Broken::DeposedAlive));
                None
            }
            answer => Some(answer),
        }
    }

    /// An answer comes back: what is sent next.
    pub(crate) fn deliver(&self, state: &mut State, answer: Message) -> Option<Message> {
        let (number, _) = state.of_term(answer.sender())?;
        let round = state.round_mut(number)?;
        let full = self.worth(round);
        match answer {
            Message::Seen { of, worth, look } => {
                round.looked = true;
                let worth = if self.lacks(Without::DeadlineFromSending) {
                    full
                } else {
                    worth
                };
                match look {
                    Look::Gone => match round.role {
                        Role::Queued => state.candidates[number] = Candidate::Out,
                        _ => {
                            round.role = Role::Ended;
                            round.ended = true;
                        }
                    },
                    // Of a candidate without a challenge key, as of any: what it has won is bound by its lease.
                    Look::NoChallengeKey { oldest } if !self.is_bound(number) => {
                        if round.role == Role::Queued && oldest {
                            round.role = Role::Leads { left: UNBOUND };
                        }
                    }
                    Look::NoChallengeKey { .. } => {
                        return (round.role != Role::Ended).then_some(Message::Refute {
                            of,
                            worth: full,
                            seen: 0,
                        });
                    }
                    Look::Challenged(seen) => {
                        return (round.role != Role::Ended).then_some(Message::Refute { of, worth: full, seen });
                    }
                    Look::Clear { oldest } => match &mut round.role {
                        Role::Queued if oldest => {
                            let left = if self.lacks(Without::BoundFromTheStart) {
                                UNBOUND
                            } else {
                                worth
                            };
                            round.role = Role::Leads { left };
                            round.suspicion = Suspicion::None;
                        }
                        Role::Queued => {}
                        Role::Leads { left } => *left = worth.max(*left),
                        role @ Role::Ended if self.lacks(Without::EndedIsFinal) => {
                            *role = Role::Leads { left: worth };
                        }
                        Role::Ended => {}
                    },
                }
                None
            }
            Message::Refuted { worth, .. } => {
                if let Role::Leads { left } = &mut round.role {
                    *left = worth.max(*left);
                }
                None
            }
            Message::Challenged {
                against,
                challenge,
                limit,
                ..
            } => {
                if let Suspicion::Asked {
                    against: asked, left, ..
                } = round.suspicion
                    && asked == against
                {
                    let whole = self.wait(limit, round.limit);
                    let left = if self.lacks(Without::WaitFromAnswer) {
                        left
                    } else {
                        whole
                    };
                    round.suspicion = self.waits(against, challenge, left);
                }
                None
            }
            request => Some(request),
        }
    }
}
