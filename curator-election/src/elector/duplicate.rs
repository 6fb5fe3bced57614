//! Duplicates: whether a key with the own id is stale, or belongs to another live process.
//!
//! If a disk image is copied, two hosts run with one id. If each removed the keys of the other as stale keys of its own
//! earlier process, neither would lead for long. But a process that was killed and restarted must not wait for its own
//! old lease, so some keys must be removed. The rules:
//!
//! 1. *Own process number, or an own lease.* The key is from an earlier round of this process. Remove it.
//! 2. *The key was created after the first check of this process.* An earlier process of this candidate creates no keys
//!    any more, so another process is alive, whatever the value contains. Keep the key. (A put in transit when its
//!    process was killed may arrive late. Then this process waits for a TTL, within which the lease of the dead process
//!    expires.)
//! 3. *The key existed at the first check, with another address or boot id.* It is from an earlier process, before a
//!    change of the configuration or a restart of the host, or from another host. Only time decides: the lease of a
//!    dead process expires within its TTL. Keep the key.
//! 4. *The key existed at the first check*, with the own address and boot id, or without them. Only one process listens
//!    there at a time, and that is this one, so the other process is dead. Remove the key. If that is wrong (two
//!    containers on one host with one address; values without these fields), rule 2 applies to the other process at its
//!    next check, and it waits.
//!
//! Of two live processes, the one with the older key stays, and the other revokes its lease: the store orders all keys
//! by their create revision, so both processes see the same order and exactly one of them yields. A process without a
//! key is the younger one. It checks again after a TTL. So rule 4 removes a key at most once in the life of a process,
//! and the number of leader changes is bounded by the number of process starts, whatever the values contain.

use crate::backend::Candidate;
use crate::process::Process;
use crate::store::{LeaseId, Revision};
use crate::value::LeaderValue;

/// The maximum number of own leases to remember. The process waits for the expiry of older ones.
const MAX_LEASES: usize = 16;

/// The identity of this process.
#[derive(Debug)]
pub(crate) struct Own {
    id: String,
    process: Process,
    /// The leases granted to this process, newest last.
    leases: Vec<LeaseId>,
    /// The newest create revision at the first check, before the first grant; `None` without a check.
    inherited: Option<Revision>,
}

/// The keys with the own id, except that of the current round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Stale keys, with their mod revisions.
    pub(crate) stale: Vec<(bytes::Bytes, Revision)>,
    /// The other process with the oldest key.
    pub(crate) duplicate: Option<Duplicate>,
}

/// Another process with the own id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Duplicate {
    pub(crate) process: Process,
    /// Whether it is known to be alive since the first check.
    pub(crate) lives: bool,
    /// Whether its key is older than the own one, so that it stays.
    pub(crate) is_older: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum KeyOwner {
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

    /// Records a lease granted to this process. Keys created later are not inherited.
    pub(crate) fn granted(&mut self, lease: LeaseId) {
        if self.leases.len() == MAX_LEASES {
            self.leases.remove(0);
        }
        self.leases.push(lease);
    }

    pub(crate) fn holds(&self, lease: Option<LeaseId>) -> bool {
        lease.is_some_and(|lease| self.leases.contains(&lease))
    }

    /// Examines all keys of the election. `present` is the lease of the current round.
    pub(crate) fn examine<V: LeaderValue>(&mut self, candidates: Vec<Candidate>, present: Option<LeaseId>) -> Found {
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
            match self.key_owner(&candidate, &process) {
                KeyOwner::OwnEarlierRound | KeyOwner::EarlierProcess => {
                    found.stale.push((candidate.key, candidate.mod_revision));
                }
                KeyOwner::AnotherProcess { lives } => {
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

    fn key_owner(&self, candidate: &Candidate, process: &Process) -> KeyOwner {
        let differs = |own: &str, other: &str| !own.is_empty() && !other.is_empty() && own != other;
        if self.holds(candidate.lease) || (!process.number.is_empty() && process.number == self.process.number) {
            KeyOwner::OwnEarlierRound
        } else if self
            .inherited
            .is_none_or(|inherited| candidate.create_revision > inherited)
        {
            KeyOwner::AnotherProcess {
                lives: self.inherited.is_some(),
            }
        } else if differs(&self.process.address, &process.address) || differs(&self.process.boot, &process.boot) {
            KeyOwner::AnotherProcess { lives: false }
        } else {
            KeyOwner::EarlierProcess
        }
    }

    /// The message about a duplicate for the operator.
    pub(crate) fn describe(&self, duplicate: &Duplicate) -> String {
        let (id, here, there) = (&self.id, self.process.place(), duplicate.process.place());
        let found = format!("at {there} (this process: {here})");
        match (duplicate.lives, duplicate.is_older) {
            (false, _) => format!(
                "duplicate candidate id {id}: a key belongs to another process {found}. Waiting one TTL: if that \
                 process is dead, its lease expires"
            ),
            (true, true) => format!(
                "duplicate candidate id {id}: another process campaigns {found}. Its key is older, so this instance \
                 does not campaign while the other is running. Check for a copied disk or an instance that was started twice"
            ),
            (true, false) => format!(
                "duplicate candidate id {id}: another process campaigns {found}. The key of this instance is older, so \
                 it stays. Check for a copied disk or an instance that was started twice"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
