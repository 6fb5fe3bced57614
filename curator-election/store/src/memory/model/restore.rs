//! Saving and restoring the state of the model, and its changes since a revision: for a durable store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{LeaseState, Model, Version, key_of};
use crate::clock::Instant;
use crate::{Event, KeyValue, Keys, LeaseId, Revision, StoreError, WatchBatch};

/// The state of a store without its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The revision of the newest change.
    pub revision: Revision,
    /// Every key that exists.
    pub keys: Vec<KeyValue>,
    /// Every lease that exists, with its TTL.
    pub leases: Vec<(LeaseId, Duration)>,
}

/// An inconsistent state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A key is attached to a missing lease.
    #[error("key {key:?} is attached to the missing lease {lease}")]
    NoSuchLease {
        /// The key.
        key: Bytes,
        /// The lease.
        lease: LeaseId,
    },
    /// The revisions of a key contradict each other or that of the store.
    #[error("key {key:?} has create revision {created} and mod revision {changed}, in a store at revision {revision}")]
    Revisions {
        /// The key.
        key: Bytes,
        /// Its create revision.
        created: Revision,
        /// The revision of its last change.
        changed: Revision,
        /// The store's revision.
        revision: Revision,
    },
}

/// A page of the changes to some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The changes, one batch per revision.
    pub batches: Vec<WatchBatch>,
    /// The first revision of the next page.
    pub next: Revision,
    /// Whether there are more changes.
    pub more: bool,
}

impl Model {
    /// A store in this state. Its earlier history counts as compacted. Each lease gets its full TTL from `now` on, as
    /// after a leader election of etcd.
    ///
    /// # Errors
    /// If the state is inconsistent.
    pub fn restore(seed: u64, now: Instant, stored: Stored) -> Result<Self, RestoreError> {
        let new = Self::new(seed);
        let revision = stored.revision.max(new.revision);
        let mut leases: BTreeMap<LeaseId, LeaseState> = BTreeMap::new();
        for (id, ttl) in stored.leases {
            let lease = LeaseState {
                ttl,
                expires_at: now + ttl,
                keys: BTreeSet::new(),
            };
            leases.insert(id, lease);
        }
        let mut keys = BTreeMap::new();
        for kv in stored.keys {
            if kv.create_revision > kv.mod_revision || kv.mod_revision > revision {
                return Err(RestoreError::Revisions {
                    key: kv.key,
                    created: kv.create_revision,
                    changed: kv.mod_revision,
                    revision,
                });
            }
            if let Some(id) = kv.lease {
                let Some(lease) = leases.get_mut(&id) else {
                    return Err(RestoreError::NoSuchLease { key: kv.key, lease: id });
                };
                lease.keys.insert(kv.key.clone());
            }
            let version = Version {
                revision: kv.mod_revision,
                kv: Some(kv.clone()),
            };
            keys.insert(kv.key, vec![version]);
        }
        Ok(Self {
            // A store at its first revision has no earlier history.
            compacted: if revision > new.revision {
                revision
            } else {
                new.compacted
            },
            revision,
            keys,
            history: BTreeMap::new(),
            leases,
            rng: StdRng::seed_from_u64(seed),
        })
    }

    /// The current state, for [`restore`](Self::restore).
    #[must_use]
    pub fn stored(&self) -> Stored {
        let newest = |versions: &Vec<Version>| versions.last()?.kv.clone();
        Stored {
            revision: self.revision,
            keys: self.keys.values().filter_map(newest).collect(),
            leases: self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect(),
        }
    }

    /// The TTL of a lease, if it exists.
    #[must_use]
    pub fn lease_ttl(&self, id: LeaseId) -> Option<Duration> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// The keys that were put or deleted after `revision`, as far as the history is not compacted.
    #[must_use]
    pub fn keys_changed_after(&self, revision: Revision) -> BTreeSet<Bytes> {
        let events = self.history.range(revision.next()..).flat_map(|(_, events)| events);
        events
            .map(|event| match event {
                Event::Put(kv) => kv.key.clone(),
                Event::Delete { key, .. } => key.clone(),
            })
            .collect()
    }

    /// The changes to `keys` from revision `from` (inclusive) on, at most `limit` batches.
    ///
    /// # Errors
    /// If `from` is compacted.
    pub fn page(&self, keys: &Keys, from: Revision, limit: usize) -> Result<Page, StoreError> {
        if from <= self.compacted {
            return Err(StoreError::Compacted {
                revision: self.compacted,
            });
        }
        let mut page = Page {
            batches: Vec::new(),
            next: from.max(self.revision.next()),
            more: false,
        };
        for (revision, events) in self.history.range(from..) {
            let of_keys = |event: &&Event| keys.contains(key_of(event));
            if !events.iter().any(|event| of_keys(&event)) {
                continue;
            }
            if page.batches.len() == limit {
                page.next = *revision;
                page.more = true;
                break;
            }
            page.batches.push(WatchBatch {
                revision: *revision,
                events: events.iter().filter(of_keys).cloned().collect(),
            });
        }
        Ok(page)
    }

    /// Limits the history to `limit` revisions. Compaction visits every key, so it compacts to half of that.
    pub fn bound_history(&mut self, limit: usize) {
        if self.history.len() <= limit {
            return;
        }
        let surplus = self.history.len() - limit / 2;
        if let Some(last) = self.history.keys().nth(surplus - 1).copied() {
            // A revision with history is neither compacted nor in the future.
            let _ = self.compact(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, Txn};

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn put(model: &mut Model, key: &'static str, lease: Option<LeaseId>) {
        let op = Op::Put {
            key: key.into(),
            value: "v".into(),
            lease,
        };
        model.txn(&Txn::default().then(vec![op])).unwrap();
    }

    #[test]
    fn what_goes_in_again_is_what_came_out() {
        let mut model = Model::new(1);
        let lease = model.grant(at(0), Duration::from_secs(10)).unwrap().id;
        put(&mut model, "a", Some(lease));
        put(&mut model, "b", None);
        put(&mut model, "a", Some(lease));
        model.txn(&Txn::default().then(vec![Op::delete("b")])).unwrap();
        let stored = model.stored();
        let mut again = Model::restore(2, at(100), stored.clone()).unwrap();
        assert_eq!(again.stored(), stored);
        assert_eq!(again.get(b"a"), model.get(b"a"));
        assert!(matches!(
            again.page(&Keys::one("a"), stored.revision, 10),
            Err(StoreError::Compacted { revision }) if revision == stored.revision
        ));
        // The lease has its full TTL; its keys expire with it.
        again.expire(at(109));
        assert!(again.get(b"a").is_some());
        again.expire(at(110));
        assert!(again.get(b"a").is_none() && again.lease_ttl(lease).is_none());
    }

    #[test]
    fn a_state_that_contradicts_itself_is_refused() {
        let mut model = Model::new(1);
        let lease = model.grant(at(0), Duration::from_secs(10)).unwrap().id;
        put(&mut model, "a", Some(lease));
        let mut stored = model.stored();
        stored.leases.clear();
        assert!(matches!(
            Model::restore(1, at(0), stored),
            Err(RestoreError::NoSuchLease { .. })
        ));
        let mut stored = model.stored();
        stored.revision = Revision(1);
        assert!(matches!(
            Model::restore(1, at(0), stored),
            Err(RestoreError::Revisions { .. })
        ));
    }

    #[test]
    fn pages_come_to_every_change_once() {
        let mut model = Model::new(1);
        for _ in 0..5 {
            put(&mut model, "a", None);
            put(&mut model, "b", None);
        }
        let (mut from, mut seen) = (Revision(2), Vec::new());
        loop {
            let page = model.page(&Keys::one("a"), from, 2).unwrap();
            seen.extend(page.batches.into_iter().map(|batch| batch.revision.0));
            from = page.next;
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, [2, 4, 6, 8, 10]);
        assert_eq!(from, Revision(12));
        // A watch from a future revision stays there.
        assert_eq!(model.page(&Keys::one("a"), Revision(50), 3).unwrap().next, Revision(50));
    }

    #[test]
    fn history_is_bounded_and_the_changed_keys_are_told() {
        let mut model = Model::new(1);
        for _ in 0..10 {
            put(&mut model, "a", None);
        }
        put(&mut model, "b", None);
        model.bound_history(11);
        assert_eq!(model.history.len(), 11);
        put(&mut model, "c", None);
        model.bound_history(11);
        assert_eq!(model.history.len(), 5);
        assert_eq!(
            model.keys_changed_after(Revision(11)),
            BTreeSet::from(["b".into(), "c".into()])
        );
        assert!(model.page(&Keys::one("b"), Revision(9), 1).is_ok());
        assert!(model.page(&Keys::one("b"), Revision(8), 1).is_err());
    }
}
