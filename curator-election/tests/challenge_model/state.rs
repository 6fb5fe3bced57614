//! The candidates, what is on its way between them and etcd, and what is left of each timer.
use crate::store::{Broken, Look, Revision, Store, Term};

pub(crate) const CANDIDATES: usize = 3;

/// The deadline of a term that is bound by its lease alone.
pub(crate) const UNBOUND: u8 = u8::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) candidates: [Candidate; CANDIDATES],
    /// How many of them have ever queued up. The first ones do so in their order: they differ in nothing else.
    pub(crate) begun: u8,
    /// In the order of their kinds: nothing depends on the order in which they were sent.
    pub(crate) messages: Vec<Message>,
    pub(crate) challenges_left: u8,
    pub(crate) kills_left: u8,
    pub(crate) removals_left: u8,
    /// Whether etcd does not answer at present.
    pub(crate) stalled: bool,
    /// For how many ticks nobody has led since a leader died.
    pub(crate) leaderless: u8,
    pub(crate) broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Candidate {
    /// Between two rounds, or not running.
    Out,
    In(Round),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Round {
    pub(crate) own: Term,
    pub(crate) role: Role,
    pub(crate) suspicion: Suspicion,
    /// The limit that it goes by.
    pub(crate) limit: u8,
    /// Whether the term has ever ended.
    pub(crate) ended: bool,
    /// Whether it was told of its own keys in this tick.
    pub(crate) looked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Queued,
    Leads {
        /// What is left until the deadline that the reads give.
        left: u8,
    },
    Ended,
}

/// What a candidate does about the oldest key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Suspicion {
    None,
    /// It has sent a challenge.
    Asked {
        against: Term,
        /// What would be left of the wait if it had begun with the sending.
        left: u8,
    },
    Waits {
        against: Term,
        challenge: Revision,
        /// What is left of the wait by the clock.
        left: u8,
        /// And by the time between answered polls.
        uncounted: u8,
        /// Since the last answered poll.
        since: u8,
    },
}

/// A request that has not reached etcd, or an answer that has not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    /// A read of the own keys. It is worth so much, which time takes away, beginning with the time before its sending.
    Read {
        of: Term,
        worth: u8,
    },
    Seen {
        of: Term,
        worth: u8,
        look: Look,
    },
    Refute {
        of: Term,
        worth: u8,
        seen: Revision,
    },
    Refuted {
        of: Term,
        worth: u8,
    },
    Challenge {
        by: Term,
        against: Term,
        known: Revision,
    },
    Challenged {
        by: Term,
        against: Term,
        challenge: Revision,
        limit: u8,
    },
    Depose {
        by: Term,
        against: Term,
        challenge: Revision,
    },
}

impl Message {
    pub(crate) const fn is_request(self) -> bool {
        matches!(
            self,
            Self::Read { .. } | Self::Refute { .. } | Self::Challenge { .. } | Self::Depose { .. }
        )
    }

    /// Whose it is.
    pub(crate) const fn sender(self) -> Term {
        match self {
            Self::Read { of, .. } | Self::Seen { of, .. } | Self::Refute { of, .. } | Self::Refuted { of, .. } => of,
            Self::Challenge { by, .. } | Self::Challenged { by, .. } | Self::Depose { by, .. } => by,
        }
    }

    pub(crate) const fn is_look(self) -> bool {
        matches!(self, Self::Read { .. } | Self::Seen { .. })
    }

    const fn worth(&mut self) -> Option<&mut u8> {
        match self {
            Self::Read { worth, .. }
            | Self::Seen { worth, .. }
            | Self::Refute { worth, .. }
            | Self::Refuted { worth, .. } => Some(worth),
            _ => None,
        }
    }
}

impl Round {
    pub(crate) const fn new(own: Term, limit: u8) -> Self {
        Self {
            own,
            role: Role::Queued,
            suspicion: Suspicion::None,
            limit,
            ended: false,
            looked: false,
        }
    }
}

impl State {
    pub(crate) fn rounds(&self) -> impl Iterator<Item = (usize, &Round)> {
        self.candidates
            .iter()
            .enumerate()
            .filter_map(|(number, candidate)| match candidate {
                Candidate::In(round) => Some((number, round)),
                Candidate::Out => None,
            })
    }

    pub(crate) fn round(&self, number: usize) -> Option<&Round> {
        match &self.candidates[number] {
            Candidate::In(round) => Some(round),
            Candidate::Out => None,
        }
    }

    pub(crate) fn round_mut(&mut self, number: usize) -> Option<&mut Round> {
        match &mut self.candidates[number] {
            Candidate::In(round) => Some(round),
            Candidate::Out => None,
        }
    }

    /// Who is in the round of this term, if it is alive.
    pub(crate) fn of_term(&self, term: Term) -> Option<(usize, &Round)> {
        self.rounds().find(|(_, round)| round.own == term)
    }

    /// Whether the clock of this candidate changes anything.
    pub(crate) fn has_timer(&self, number: usize) -> bool {
        let Some(round) = self.round(number) else {
            return false;
        };
        let deadline = matches!(round.role, Role::Leads { left } if runs(left));
        let wait = match round.suspicion {
            Suspicion::None => false,
            Suspicion::Asked { left, .. } => left > 0,
            Suspicion::Waits { left, uncounted, .. } => left > 0 || uncounted > 0,
        };
        deadline
            || wait
            || self.messages.iter().any(|message| {
                message.sender() == round.own && message.clone().worth().is_some_and(|worth| runs(*worth))
            })
    }

    /// The clock of this candidate goes on.
    pub(crate) fn advance(&mut self, number: usize, by: u8, longest_gap: u8) {
        let Some(round) = self.round_mut(number) else {
            return;
        };
        let own = round.own;
        if let Role::Leads { left } = &mut round.role {
            take(left, by);
        }
        match &mut round.suspicion {
            Suspicion::None => {}
            Suspicion::Asked { left, .. } => take(left, by),
            Suspicion::Waits {
                left, uncounted, since, ..
            } => {
                take(left, by);
                if *uncounted > 0 {
                    *since = since.saturating_add(by).min(longest_gap);
                }
            }
        }
        for message in &mut self.messages {
            if message.sender() == own
                && let Some(worth) = message.worth()
            {
                take(worth, by);
            }
        }
    }
}

fn take(left: &mut u8, by: u8) {
    if *left != UNBOUND {
        *left = left.saturating_sub(by);
    }
}

const fn runs(left: u8) -> bool {
    left > 0 && left != UNBOUND
}
