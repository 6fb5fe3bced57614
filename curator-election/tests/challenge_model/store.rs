//! etcd, as far as the challenge needs it: the keys of each term, and transactions.
use crate::safeguard::Without;

/// How many lock keys are ever put, at most.
pub(crate) const MAX_TERMS: usize = 4;

/// A create revision, in the order of the queue: they begin at one.
pub(crate) type Term = u8;

/// A modification revision of one challenge key. Only equality is ever asked for, so each key counts by itself; zero is
/// that of an absent key.
pub(crate) type Revision = u8;

/// `<prefix>-challenge/<lease>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChallengeKey {
    pub(crate) revision: Revision,
    pub(crate) challenged: bool,
    /// The limit that is written in it.
    pub(crate) limit: u8,
}

/// What belongs to one lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Keys {
    pub(crate) owner: u8,
    pub(crate) lease: bool,
    /// `<prefix>/<lease>`.
    pub(crate) lock: bool,
    pub(crate) challenge: Option<ChallengeKey>,
    /// The revision that the challenge key had last, also while it is absent.
    last: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    keys: [Keys; MAX_TERMS],
    put: u8,
    /// Whether there is a single challenge key, which is kept with the first term.
    shared: bool,
}

/// What a look at the own keys shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Look {
    /// The lock key is gone.
    Gone,
    /// The lock key is there, and nobody can challenge it.
    NoChallengeKey {
        oldest: bool,
    },
    Clear {
        oldest: bool,
    },
    Challenged(Revision),
}

/// What a transaction did that it must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    /// The lock key of another was removed, and no lock key is left.
    QueueEmptied,
    /// The lock key was removed of one that had refuted the challenge, or was not challenged.
    DeposedThoughRefuted,
    /// A candidate was deposed that is alive, and whose reads etcd answers.
    DeposedAlive,
}

impl Store {
    pub(crate) fn new(without: Without) -> Self {
        Self {
            keys: [Keys::default(); MAX_TERMS],
            put: 0,
            shared: without == Without::ChallengeKeyPerTerm,
        }
    }

    pub(crate) const fn put(&self) -> u8 {
        self.put
    }

    pub(crate) fn terms(&self) -> impl Iterator<Item = Term> + use<> {
        1..=self.put
    }

    pub(crate) fn of(&self, term: Term) -> &Keys {
        &self.keys[usize::from(term) - 1]
    }

    fn of_mut(&mut self, term: Term) -> &mut Keys {
        &mut self.keys[usize::from(term) - 1]
    }

    pub(crate) fn holds(&self, term: Term) -> bool {
        self.of(term).lock
    }

    pub(crate) fn challenge_key(&self, term: Term) -> Option<ChallengeKey> {
        self.of(if self.shared { 1 } else { term }).challenge
    }

    pub(crate) fn revision(&self, term: Term) -> Revision {
        self.challenge_key(term).map_or(0, |key| key.revision)
    }

    pub(crate) fn oldest(&self) -> Option<Term> {
        self.terms().find(|term| self.holds(*term))
    }

    pub(crate) fn is_oldest(&self, term: Term) -> bool {
        self.oldest() == Some(term)
    }

    /// Writes the challenge key, which gets its next revision.
    fn write(&mut self, term: Term, challenged: bool, limit: u8) -> Revision {
        let keys = self.of_mut(if self.shared { 1 } else { term });
        keys.last += 1;
        keys.challenge = Some(ChallengeKey {
            revision: keys.last,
            challenged,
            limit,
        });
        keys.last
    }

    /// Queues up: both keys under a new lease, or the lock key alone.
    pub(crate) fn queue(&mut self, owner: u8, limit: Option<u8>) -> Term {
        self.put += 1;
        let term = self.put;
        let keys = self.of_mut(term);
        keys.owner = owner;
        keys.lease = true;
        keys.lock = true;
        if let Some(limit) = limit
            && !(self.shared && term > 1)
        {
            self.write(term, false, limit);
        }
        term
    }

    fn remove(&mut self, term: Term) {
        let shared = self.shared;
        let keys = self.of_mut(term);
        keys.lock = false;
        if !shared {
            keys.challenge = None;
        }
    }

    pub(crate) fn end_lease(&mut self, term: Term) {
        self.of_mut(term).lease = false;
        self.remove(term);
    }

    pub(crate) fn remove_challenge_key(&mut self, term: Term) {
        self.of_mut(term).challenge = None;
    }

    /// One read-only transaction of both keys.
    pub(crate) fn look(&self, term: Term, checks_challenge: bool) -> Look {
        if !self.holds(term) {
            return Look::Gone;
        }
        let oldest = self.is_oldest(term);
        match self.challenge_key(term) {
            None => Look::NoChallengeKey { oldest },
            Some(key) if key.challenged && checks_challenge => Look::Challenged(key.revision),
            Some(_) => Look::Clear { oldest },
        }
    }

    /// The challenge key is put again, clear, if nobody has written it meanwhile. Whether it was.
    pub(crate) fn refute(&mut self, term: Term, seen: Revision, limit: u8, without: Without) -> bool {
        let guarded = self.holds(term) && self.revision(term) == seen;
        // A key cannot be put under a lease that is gone.
        let unguarded = without == Without::GuardOfRefutation && self.of(term).lease;
        let done = guarded || unguarded;
        if done {
            self.write(term, false, limit);
        }
        done
    }

    /// The revision of the challenge, if it was written.
    pub(crate) fn challenge(
        &mut self,
        by: Term,
        against: Term,
        known: Revision,
        limit: u8,
        without: Without,
    ) -> Option<Revision> {
        let queued = self.holds(by) || without == Without::DeposerIsQueued;
        let comparable = known > 0 || without == Without::RevisionAboveZero;
        let compared = self.holds(against) && self.revision(against) == known;
        (queued && comparable && compared).then(|| self.write(against, true, limit))
    }

    /// Removes the keys of the accused, if the challenge stands.
    pub(crate) fn depose(
        &mut self,
        by: Term,
        against: Term,
        challenge: Revision,
        without: Without,
    ) -> Option<(Term, Option<Broken>)> {
        // With one key for all terms, it is the leader that is deposed.
        let accused = if self.shared { self.oldest()? } else { against };
        let queued = self.holds(by) || without == Without::DeposerIsQueued;
        let stands = self.revision(accused) == challenge;
        let compared = self.holds(accused) && (stands || without == Without::CompareOfRevision);
        if !queued || !compared || accused == by {
            return None;
        }
        self.remove(accused);
        let broken = match (stands, self.oldest()) {
            (false, _) => Some(Broken::DeposedThoughRefuted),
            (true, None) => Some(Broken::QueueEmptied),
            (true, Some(_)) => None,
        };
        Some((accused, broken))
    }

    /// Forgets the keys of a term that is over, of which nobody will ask again.
    pub(crate) fn forget(&mut self, term: Term) {
        if !(self.shared && term == 1) {
            *self.of_mut(term) = Keys::default();
        }
    }
}
