//! Invariants of terms, lock keys and writes, checked against the store's history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use curator_election::store::{Event, LeaseId, Revision};
use curator_election::{ElectionStatus, Term, Validity};

use crate::status::LeaderStatus;
use crate::testing::simulation::history::{Broken, Version};
use crate::testing::simulation::scenario::TTL;

/// The prefix of lock keys.
pub(super) const LOCKS: &str = "/leader";
/// The number of registers.
pub(super) const REGISTERS: usize = 3;
/// Two keys of which at most one may exist: a writer of one has read that the other does not.
pub(super) const SIDES: [&str; 2] = ["/global/left", "/global/right"];

/// The maximum age of a reply of the store: each request ends within a second.
const ANSWER: Duration = Duration::from_millis(1_050);

/// A register's key.
pub(super) fn register_key(register: usize) -> String {
    format!("/global/r{register}")
}

/// A register's value: the writing call, its term and the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) by: u64,
    pub(super) term: Revision,
    pub(super) count: u64,
    pub(super) adds: bool,
}

impl Value {
    pub(super) fn encode(self) -> Bytes {
        format!("{} {} {} {}", self.by, self.term.0, self.count, u8::from(self.adds)).into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        Some(Self {
            by: words.next()?.parse().ok()?,
            term: Revision(words.next()?.parse().ok()?),
            count: words.next()?.parse().ok()?,
            adds: words.next()? == "1",
        })
    }
}

/// A lock key and its create revision: after a restore, the revision alone may not be unique.
type Lock = (Revision, Bytes);

/// The store's history so far, and the observed terms.
#[derive(Default)]
pub(super) struct Terms {
    /// The current lock keys, by create revision.
    locks: BTreeMap<Revision, Bytes>,
    /// When the other lock keys were deleted.
    gone: BTreeMap<Lock, Duration>,
    /// Lock keys that another client revoked or replaced. An instance that is cut off cannot detect that; only the
    /// guard protects the state then.
    meddled: BTreeSet<Lock>,
    sides: [bool; 2],
    seen: Vec<Seen>,
    /// When terms were first seen to have ended.
    pub(super) ended: BTreeMap<Revision, Duration>,
    /// The versions of each register.
    pub(super) versions: Vec<Vec<Version>>,
}

/// The observed history when a snapshot was taken.
#[derive(Clone)]
pub(super) struct Kept {
    locks: BTreeMap<Revision, Bytes>,
    sides: [bool; 2],
    versions: Vec<Vec<Version>>,
}

/// Whether this is the key of a candidate, not a challenge key.
fn is_lock(key: &[u8]) -> bool {
    key.strip_prefix(LOCKS.as_bytes())
        .is_some_and(|rest| rest.starts_with(b"/"))
}

fn lock_of(term: &Term) -> Lock {
    (term.lock_revision(), term.lock_key().clone())
}

impl Kept {
    /// The number of versions of each register.
    pub(super) fn versions(&self) -> impl Iterator<Item = usize> {
        self.versions.iter().map(Vec::len)
    }
}

struct Seen {
    term: Term,
    node: usize,
    ended: bool,
    /// Its revision was taken back by a restore, so that another term may have it.
    lost: bool,
}

/// The state of a node at one moment.
pub(super) struct Look {
    pub(super) node: usize,
    pub(super) status: LeaderStatus,
    /// Since when it has been running without a pause; `None` while it is paused.
    pub(super) running_since: Option<Duration>,
}

impl Terms {
    pub(super) fn new() -> Self {
        Self {
            versions: vec![Vec::new(); REGISTERS],
            ..Self::default()
        }
    }

    /// The number of terms.
    pub(super) fn count(&self) -> usize {
        self.seen.len()
    }

    /// The current lock keys.
    pub(super) fn locks(&self) -> impl Iterator<Item = &Bytes> {
        self.locks.values()
    }

    /// The observed history, for a restore to it.
    pub(super) fn keep(&self) -> Kept {
        Kept {
            locks: self.locks.clone(),
            sides: self.sides,
            versions: self.versions.clone(),
        }
    }

    /// The store was restored to that history, at this revision. An instance whose lock key is lost only learns it from
    /// the store.
    pub(super) fn restored(&mut self, now: Duration, kept: Kept, revision: Revision) {
        for seen in &mut self.seen {
            seen.lost |= seen.term.lock_revision() > revision;
        }
        self.ended.retain(|lock, _| *lock <= revision);
        for (revision, key) in &self.locks {
            if kept.locks.get(revision) != Some(key) {
                self.meddled.insert((*revision, key.clone()));
                self.gone.insert((*revision, key.clone()), now);
            }
        }
        for (revision, key) in &kept.locks {
            self.gone.remove(&(*revision, key.clone()));
        }
        self.locks = kept.locks;
        self.sides = kept.sides;
        self.versions = kept.versions;
    }

    /// Another client is about to revoke this lease.
    pub(super) fn meddle_with_lease(&mut self, lease: LeaseId) {
        self.meddle_with_lock(format!("{LOCKS}/{lease}").as_bytes());
    }

    /// Another client is about to delete this lock key.
    pub(super) fn meddle_with_lock(&mut self, key: &[u8]) {
        let created = self.locks.iter().find(|(_, lock)| lock.as_ref() == key);
        self.meddled
            .extend(created.map(|(revision, key)| (*revision, key.clone())));
    }

    /// Records the store's events of one revision, observed at this time.
    pub(super) fn follow(&mut self, now: Duration, events: &[Event]) -> Result<(), Broken> {
        for event in events {
            match event {
                Event::Put(kv) if is_lock(&kv.key) => {
                    self.locks.insert(kv.create_revision, kv.key.clone());
                }
                Event::Delete { key, .. } if is_lock(key) => {
                    let gone = &mut self.gone;
                    self.locks.retain(|revision, lock| {
                        if lock == key {
                            gone.insert((*revision, lock.clone()), now);
                        }
                        lock != key
                    });
                }
                Event::Put(kv) => self.written(&kv.key, &kv.value, kv.mod_revision)?,
                Event::Delete { key, .. } => self.set_side(key, false),
            }
        }
        match self.sides {
            [true, true] => Err((
                "changes that touch each other take place one after the other",
                "each of two claims saw that the other was not there, and both are".into(),
            )),
            _ => Ok(()),
        }
    }

    fn written(&mut self, key: &[u8], value: &[u8], at: Revision) -> Result<(), Broken> {
        self.set_side(key, true);
        // The initial content has no writer.
        let Some(value) = Value::decode(value) else {
            return Ok(());
        };
        if !self.locks.contains_key(&value.term) {
            let what = format!(
                "call {} was written at {at} in the term of {}, whose lock key is not in the store",
                value.by, value.term
            );
            return Err(("no write of an ended term is accepted", what));
        }
        let register = (0..REGISTERS).find(|register| register_key(*register).as_bytes() == key);
        if let Some(versions) = register.and_then(|register| self.versions.get_mut(register)) {
            versions.push(Version {
                by: value.by,
                count: value.count,
                adds: value.adds,
            });
        }
        Ok(())
    }

    fn set_side(&mut self, key: &[u8], there: bool) {
        if let Some(side) = SIDES.iter().position(|side| side.as_bytes() == key) {
            self.sides[side] = there;
        }
    }

    /// Checks all nodes at one moment; returns the new terms.
    pub(super) fn look(&mut self, now: Duration, looks: &[Look]) -> Result<Vec<String>, Broken> {
        let mut news = Vec::new();
        for look in looks {
            match &look.status {
                ElectionStatus::Leader(term) => {
                    if self.seen.iter().all(|seen| seen.term != *term) {
                        news.push(format!(
                            "node {} leads in the term of {}",
                            look.node,
                            term.lock_revision()
                        ));
                        self.seen.push(Seen {
                            term: term.clone(),
                            node: look.node,
                            ended: false,
                            lost: false,
                        });
                        self.check_victory(now, look, term)?;
                    }
                }
                ElectionStatus::Follower(following) => {
                    self.check_news(now, look, &(following.revision, following.key.clone()))?;
                }
                ElectionStatus::Undetermined(_) => {}
            }
        }
        self.check_terms(now)?;
        Ok(news)
    }

    /// How long the node's knowledge has been outdated, counting only the time in which it was running. `None` for a
    /// paused node and for current knowledge.
    /// is stopped, and for what is so.
    fn out_of_date(&self, now: Duration, look: &Look, lock: &Lock) -> Option<Duration> {
        let gone = *self.gone.get(lock)?;
        Some(now.saturating_sub(gone.max(look.running_since?)))
    }

    fn check_victory(&self, now: Duration, look: &Look, term: &Term) -> Result<(), Broken> {
        match self.out_of_date(now, look, &lock_of(term)) {
            Some(age) if age > ANSWER => Err((
                "nobody wins without its key",
                format!(
                    "node {} begins a term, and its lock key has been gone for {age:?}",
                    look.node
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_news(&self, now: Duration, look: &Look, leader: &Lock) -> Result<(), Broken> {
        // A clock may be slower by 9 %.
        let longest = TTL.mul_f64(1.1) + ANSWER;
        match self.out_of_date(now, look, leader) {
            Some(age) if age > longest => Err((
                "old news of a leader are dropped",
                format!(
                    "node {} follows the leader of {}, which has been gone for {age:?}",
                    look.node, leader.0
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_terms(&mut self, now: Duration) -> Result<(), Broken> {
        let mut valid = Vec::new();
        for seen in &mut self.seen {
            let (is_valid, has_ended) = match seen.term.validity() {
                Validity::Valid => (true, false),
                Validity::Suspended => (false, false),
                Validity::Ended => (false, true),
            };
            if !has_ended && seen.ended {
                let what = format!("that of node {} at {}", seen.node, seen.term.lock_revision());
                return Err(("a term that has ended is never valid again", what));
            }
            seen.ended = has_ended;
            if has_ended && !seen.lost {
                self.ended.entry(seen.term.lock_revision()).or_insert(now);
            }
            let lock = lock_of(&seen.term);
            if is_valid && !self.meddled.contains(&lock) {
                valid.push((seen.node, lock));
            }
        }
        if valid.len() > 1 {
            return Err(("at most one term is valid", format!("(node, lock revision): {valid:?}")));
        }
        match valid.first() {
            Some((node, (revision, key))) if self.locks.get(revision) != Some(key) => Err((
                "a valid term has its lock key in the store",
                format!("that of node {node} at {revision} has not"),
            )),
            _ => Ok(()),
        }
    }
}
