//! Whether a key with the own id is the own candidate's, or that of another process which lives: a duplicate.
//!
//! A disk image is copied, and two hosts run with one id. If each took the keys of the other for what its own earlier process has
//! left behind, it would remove them, and neither would lead for longer than a moment. But a process that was killed and started
//! again must not wait for its own old lease, so not every key can be left alone. What tells them apart:
//!
//! 1. *The own number, or a lease of the own.* The key is from an earlier round of this very process. It goes.
//! 2. *The key was created after this process first looked.* What ran before it puts no keys any more. Somebody else lives, and it
//!    does not matter what the value says. (A put that was under way when its process was killed may come in late. Then this
//!    process waits for a TTL, in which the lease of the dead one runs out.)
//! 3. *It was there when this process first looked, with another address, or from another boot.* It may be of an earlier process
//!    before a change of the configuration or a restart of the host, or of another host. Nothing but time tells: the lease of a
//!    dead one runs out within its TTL. The key stays.
//! 4. *It was there when this process first looked*, with the own address in the same boot, or it does not say. Only one process
//!    listens there at a time, and that is this one, so the other is dead: the key goes. If that was wrong (two containers of one
//!    host with one address; values that say nothing), the other one finds rule 2 at its next look, and waits.
//!
//! Of two processes that live, the one with the older key stays, and the other one gives its own back: the store orders all keys by
//! their create revision, so both see the same order, and just one of them yields. Whoever has no key is the younger one. It looks
//! again after a TTL. So each removal by rule 4 happens at most once in the life of a process, and changes of the leader are bounded
//! by the number of starts, whatever is said or not said in the values.

use crate::backend::Candidate;
use crate::process::Process;
use crate::store::{LeaseId, Revision};
use crate::value::LeaderValue;

/// The most leases of earlier rounds to know again. One that is forgotten is waited for.
const LEASES: usize = 16;

/// What a process knows of itself.
#[derive(Debug)]
pub(crate) struct Own {
    id: String,
    process: Process,
    /// Leases that were granted to it, the newest last.
    leases: Vec<LeaseId>,
    /// No key that it has found before it was granted a lease is younger; `None` if it could not look.
    inherited: Option<Revision>,
}

/// What is in the election under the own id, beside the key of the present round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Keys that are nobody's any more, with the revisions of their last change.
    pub(crate) stale: Vec<(bytes::Bytes, Revision)>,
    /// The oldest key of another process.
    pub(crate) duplicate: Option<Duplicate>,
}

/// Another process with the own id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Duplicate {
    pub(crate) process: Process,
    /// Whether it is known to have lived since this process first looked.
    pub(crate) lives: bool,
    /// Whether it is the one that stays.
    pub(crate) is_older: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Whose {
    OwnEarlierRound,
    EarlierProcess,
    AnotherProcess { lives: bool },
}

impl Own {
    pub(crate) const fn new(id: String, process: Process) -> Self {
        Self {
            id,
            process,
            leases: Vec::new(),
            inherited: None,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// A lease was granted to this process. Keys that are found from now on are no heritage of it.
    pub(crate) fn granted(&mut self, lease: LeaseId) {
        if self.leases.len() == LEASES {
            self.leases.remove(0);
        }
        self.leases.push(lease);
    }

    pub(crate) fn holds(&self, lease: Option<LeaseId>) -> bool {
        lease.is_some_and(|lease| self.leases.contains(&lease))
    }

    /// Looks at all keys of the election. `present` is the lease of the round that is under way.
    pub(crate) fn look<V: LeaderValue>(&mut self, candidates: Vec<Candidate>, present: Option<LeaseId>) -> Found {
        if self.leases.is_empty() {
            let newest = candidates.iter().map(|candidate| candidate.create_revision).max();
            self.inherited = self.inherited.max(Some(newest.unwrap_or(Revision(0))));
        }
        let is_present = |candidate: &Candidate| present.is_some() && candidate.lease == present;
        let own = candidates
            .iter()
            .find(|candidate| is_present(candidate))
            .map(|candidate| candidate.create_revision);
        let mut found = Found::default();
        let mut oldest = None;
        for candidate in candidates {
            if is_present(&candidate) {
                continue;
            }
            let Ok(value) = V::decode(&candidate.value) else {
                continue;
            };
            if value.candidate_id() != self.id {
                continue;
            }
            let process = value.process();
            match self.whose(&candidate, &process) {
                Whose::OwnEarlierRound | Whose::EarlierProcess => {
                    found.stale.push((candidate.key, candidate.mod_revision));
                }
                Whose::AnotherProcess { lives } => {
                    let created = candidate.create_revision;
                    if oldest.is_none_or(|oldest| created < oldest) {
                        oldest = Some(created);
                        found.duplicate = Some(Duplicate {
                            process,
                            lives: lives || own.is_some_and(|own| own < created),
                            is_older: own.is_none_or(|own| created < own),
                        });
                    }
                }
            }
        }
        found
    }

    fn whose(&self, candidate: &Candidate, process: &Process) -> Whose {
        let differs = |own: &str, other: &str| !own.is_empty() && !other.is_empty() && own != other;
        if self.holds(candidate.lease) || (!process.number.is_empty() && process.number == self.process.number) {
            Whose::OwnEarlierRound
        } else if self
            .inherited
            .is_none_or(|inherited| candidate.create_revision > inherited)
        {
            Whose::AnotherProcess {
                lives: self.inherited.is_some(),
            }
        } else if differs(&self.process.address, &process.address) || differs(&self.process.boot, &process.boot) {
            Whose::AnotherProcess { lives: false }
        } else {
            Whose::EarlierProcess
        }
    }

    /// What to tell an operator of a duplicate.
    pub(crate) fn tell(&self, duplicate: &Duplicate) -> String {
        let (id, here, there) = (&self.id, self.process.place(), duplicate.process.place());
        let found = format!("at {there}, beside this one at {here}");
        match (duplicate.lives, duplicate.is_older) {
            (false, _) => format!(
                "a key of {id} is of another process, {found}: if that one is dead its lease runs out within the TTL, which this \
                 instance waits for"
            ),
            (true, true) => format!(
                "another process stands for election as {id}, {found}: it was there before, and this instance does not stand as \
                 long as it is. Was the disk of a node copied, or the instance started twice?"
            ),
            (true, false) => format!(
                "another process stands for election as {id}, {found}, which stays: its key is the older one. Was the disk of a node \
                 copied, or the instance started twice?"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
