//! The bounds, and the numbers that candidates go by.
use crate::clocks::Clocks;
use crate::safeguard::Without;
use crate::state::{CANDIDATES, Role, Round, State, Suspicion};
use crate::store::{Revision, Term};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Everything may take as long as one likes, and be lost. Leases end. Time counts whether etcd answers or not.
    Free,
    /// Whoever is accused reads its keys, and refutes, in each tick in which etcd answers; candidates do as they like.
    /// etcd stops to answer at any time, for as long as one likes. Leases last.
    AccusedPrompt,
    /// So do the candidates, and the next in the queue suspects a dead leader at once. etcd answers. Leases last.
    AllPrompt,
}

#[derive(Clone, Debug)]
pub(crate) struct Challenges {
    /// How many lock keys are ever put.
    pub(crate) rounds: u8,
    /// How many challenges are ever sent.
    pub(crate) challenges: u8,
    /// How many messages are on their way at a time.
    pub(crate) messages: usize,
    /// How many of them are reads of one candidate.
    pub(crate) reads: usize,
    pub(crate) clocks: Clocks,
    pub(crate) limits: [u8; CANDIDATES],
    /// A candidate that knows nothing of challenges: Go's, or one of ours that is older.
    pub(crate) without_challenge_key: Option<usize>,
    /// How many challenge keys somebody removes by hand.
    pub(crate) removals: u8,
    /// Whether leaders end their terms on request, before their keys go.
    pub(crate) step_down: bool,
    pub(crate) pace: Pace,
    /// How many candidates die, where leases last.
    pub(crate) kills: u8,
    pub(crate) without: Without,
}

impl Challenges {
    /// With rates that differ by a tenth, and a limit of two ticks.
    pub(crate) const fn new(rounds: u8, challenges: u8, messages: usize) -> Self {
        Self {
            rounds,
            challenges,
            messages,
            reads: 1,
            clocks: Clocks::TEN_PERCENT,
            limits: [20; CANDIDATES],
            without_challenge_key: None,
            removals: 0,
            step_down: false,
            pace: Pace::Free,
            kills: 0,
            without: Without::Nothing,
        }
    }

    pub(crate) fn without(self, without: Without) -> Self {
        Self { without, ..self }
    }

    pub(crate) fn lacks(&self, safeguard: Without) -> bool {
        self.without == safeguard
    }

    pub(crate) fn is_bound(&self, number: usize) -> bool {
        self.without_challenge_key != Some(number)
    }

    /// What a read is worth at the time before its sending.
    pub(crate) fn worth(&self, round: &Round) -> u8 {
        if self.lacks(Without::MarginForRates) {
            round.limit
        } else {
            self.clocks.validity(round.limit)
        }
    }

    /// How long the challenge of somebody with this limit must stand, by this candidate's clock.
    pub(crate) fn wait(&self, accused: u8, own: u8) -> u8 {
        if self.lacks(Without::LimitOfAccused) {
            self.clocks.wait(own)
        } else if self.lacks(Without::MarginForRates) {
            accused
        } else {
            self.clocks.wait(accused)
        }
    }

    /// One and a half times the interval of the polls, which is a tick.
    pub(crate) fn longest_gap(&self) -> u8 {
        self.clocks.fast + self.clocks.fast / 2
    }

    pub(crate) fn waits(&self, against: Term, challenge: Revision, left: u8) -> Suspicion {
        let counts = self.pace != Pace::Free && !self.lacks(Without::CountedTime);
        Suspicion::Waits {
            against,
            challenge,
            left,
            uncounted: if counts { left } else { 0 },
            // The receipt of the answer is not an answered poll.
            since: if counts { self.longest_gap() } else { 0 },
        }
    }

    /// A lease lasts beyond its deadline. At worst the deadline passes just as it ends.
    pub(crate) fn is_valid(&self, state: &State, round: &Round) -> bool {
        let Role::Leads { left } = round.role else {
            return false;
        };
        let lease = state.store.of(round.own).lease;
        if self.lacks(Without::EarlierDeadline) {
            lease || left > 0
        } else {
            lease && left > 0
        }
    }

    pub(crate) fn valid<'a>(&'a self, state: &'a State) -> impl Iterator<Item = Term> {
        let valid = state.rounds().filter(|(_, round)| self.is_valid(state, round));
        valid.map(|(_, round)| round.own)
    }

    pub(crate) fn has_room(&self, state: &State) -> bool {
        state.messages.len() < self.messages
    }

    /// Whom this candidate would challenge.
    pub(crate) fn accused(&self, state: &State, round: &Round) -> Option<Term> {
        let oldest = state.store.oldest().filter(|oldest| *oldest < round.own)?;
        (state.store.revision(oldest) > 0 || self.lacks(Without::RevisionAboveZero)).then_some(oldest)
    }
}
