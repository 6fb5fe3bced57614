//! etcd's semantics, pure and synchronous: revisions, transactions, leases, history and compaction. Time is an
//! argument.
//!
//! The semantics are those of etcd 3.4 to 3.7. Tests run random traces on this model and on etcd and compare the
//! results.

mod restore;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock::Instant;
use crate::{
    Compare, Event, KeyValue, Keys, Lease, LeaseId, Op, OpResult, Ordering, Range, RangeResult, RefusalKind, Revision,
    Sort, StoreError, Target, TimeToLive, Txn, TxnResult, WatchBatch,
};

pub use restore::{Page, RestoreError, Stored};
pub use snapshot::Snapshot;

/// The minimum TTL of a lease: one and a half of etcd's default election timeout, rounded up.
pub const MIN_TTL: Duration = Duration::from_secs(2);

/// The complete state of a store.
#[derive(Debug)]
pub struct Model {
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// The events of each revision that is not compacted.
    history: BTreeMap<Revision, Vec<Event>>,
    leases: BTreeMap<LeaseId, LeaseState>,
    rng: StdRng,
}

/// The states of a key by revision; `None` for deleted.
#[derive(Clone, Debug)]
struct Version {
    revision: Revision,
    kv: Option<KeyValue>,
}

#[derive(Clone, Debug)]
struct LeaseState {
    ttl: Duration,
    expires_at: Instant,
    keys: BTreeSet<Bytes>,
}

impl Model {
    /// An empty store at revision 1, as in etcd. Equal seeds draw equal lease ids.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            revision: Revision(1),
            compacted: Revision(0),
            keys: BTreeMap::new(),
            history: BTreeMap::new(),
            leases: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// The revision of the newest change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The leases, with their expiry times.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Instant)> + '_ {
        self.leases.iter().map(|(id, lease)| (*id, lease.expires_at))
    }

    /// The current state of the key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.kv.as_ref()
    }

    /// Reads.
    ///
    /// # Errors
    /// If the requested revision is compacted, or in the future.
    pub fn range(&self, range: &Range) -> Result<RangeResult, StoreError> {
        let (kvs, count) = self.read(range, self.revision)?;
        Ok(RangeResult {
            revision: self.revision,
            kvs,
            count,
        })
    }

    /// Executes a transaction, at one new revision if it changes anything.
    ///
    /// # Errors
    /// If the transaction is invalid. Nothing was changed.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnResult, StoreError> {
        check_puts(&txn.success)?;
        check_puts(&txn.failure)?;
        let path = self.path(txn);
        self.check_ops(&path)?;
        let at = self.revision.next();
        let mut events = Vec::new();
        let results = self.apply(at, &path, &mut events)?;
        self.commit(at, events);
        Ok(TxnResult {
            revision: self.revision,
            succeeded: path.succeeded,
            results,
        })
    }

    /// Selects the branches of the transaction and of all nested ones, before anything is executed.
    fn path<'a>(&self, txn: &'a Txn) -> Path<'a> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let nested = ops
            .iter()
            .filter_map(|op| match op {
                Op::Txn(nested) => Some(self.path(nested)),
                _ => None,
            })
            .collect();
        Path { succeeded, ops, nested }
    }

    /// Checks all operations of the selected path.
    fn check_ops(&self, path: &Path<'_>) -> Result<(), StoreError> {
        for op in path.ops {
            match op {
                Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease) => {
                    return Err(StoreError::LeaseNotFound { id: *lease });
                }
                Op::Range(range) => self.check_revision(range.revision)?,
                _ => {}
            }
        }
        path.nested.iter().try_for_each(|nested| self.check_ops(nested))
    }

    fn apply(&mut self, at: Revision, path: &Path<'_>, events: &mut Vec<Event>) -> Result<Vec<OpResult>, StoreError> {
        let mut results = Vec::with_capacity(path.ops.len());
        let mut nested = path.nested.iter();
        for op in path.ops {
            results.push(match op {
                Op::Range(range) => {
                    // Later operations see the effect of earlier ones of the same transaction.
                    let (kvs, count) = self.read(range, at)?;
                    OpResult::Range { kvs, count }
                }
                Op::Txn(_) => match nested.next() {
                    Some(path) => OpResult::Txn {
                        succeeded: path.succeeded,
                        results: self.apply(at, path, events)?,
                    },
                    // A path has as many nested paths as nested transactions.
                    None => continue,
                },
                Op::Put { key, value, lease } => {
                    events.push(self.put(at, key.clone(), value.clone(), *lease));
                    OpResult::Put
                }
                Op::Delete(keys) => {
                    let deleted = self.delete(at, keys);
                    let count = deleted.len();
                    events.extend(deleted);
                    OpResult::Deleted(i64::try_from(count).unwrap_or(i64::MAX))
                }
            });
        }
        Ok(results)
    }

    /// Grants a lease of `ttl` in whole seconds, rounded up, at least [`MIN_TTL`].
    pub fn grant(&mut self, now: Instant, ttl: Duration) -> Lease {
        let whole = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        let ttl = whole.max(MIN_TTL);
        let id = loop {
            let id = LeaseId::new(self.rng.random_range(1..=i64::MAX));
            if let Some(id) = id.filter(|id| !self.leases.contains_key(id)) {
                break id;
            }
        };
        self.leases.insert(
            id,
            LeaseState {
                ttl,
                expires_at: now + ttl,
                keys: BTreeSet::new(),
            },
        );
        Lease { id, ttl }
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// If the lease does not exist. An expired lease that is not removed yet is renewed, as in etcd.
    pub fn keep_alive(&mut self, now: Instant, id: LeaseId) -> Result<Duration, StoreError> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::LeaseNotFound { id })?;
        lease.expires_at = now + lease.ttl;
        Ok(lease.ttl)
    }

    /// The granted and the remaining TTL of a lease.
    ///
    /// # Errors
    /// If the lease does not exist.
    pub fn time_to_live(&self, now: Instant, id: LeaseId) -> Result<TimeToLive, StoreError> {
        let lease = self.leases.get(&id).ok_or(StoreError::LeaseNotFound { id })?;
        let remaining = lease.expires_at.saturating_since(now).as_secs();
        Ok(TimeToLive {
            granted: lease.ttl,
            remaining: Duration::from_secs(remaining),
        })
    }

    /// Revokes a lease and deletes its keys, at one revision.
    ///
    /// # Errors
    /// If the lease does not exist.
    pub fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let lease = self.leases.remove(&id).ok_or(StoreError::LeaseNotFound { id })?;
        let at = self.revision.next();
        let events = lease
            .keys
            .iter()
            .flat_map(|key| self.delete(at, &Keys::One(key.clone())))
            .collect();
        self.commit(at, events);
        Ok(())
    }

    /// Removes expired leases. etcd checks every half second.
    pub fn expire(&mut self, now: Instant) {
        let over: Vec<_> = self
            .leases()
            .filter(|(_, expires_at)| *expires_at <= now)
            .map(|(id, _)| id)
            .collect();
        for id in over {
            // The lease was listed just now.
            let _ = self.revoke(id);
        }
    }

    /// Renews all leases as a leader election of etcd does: each gets its full TTL and some more.
    pub fn change_of_leader(&mut self, now: Instant, extension: Duration) {
        for lease in self.leases.values_mut() {
            lease.expires_at = now + lease.ttl + extension;
        }
    }

    /// Compacts the history up to and including `revision`; the current keys stay.
    ///
    /// # Errors
    /// If the revision is already compacted, or in the future.
    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted {
                revision: self.compacted,
            });
        }
        if revision > self.revision {
            return Err(StoreError::refused("the revision is in the future"));
        }
        self.compacted = revision;
        self.history = self.history.split_off(&revision.next());
        self.keys.retain(|_, versions| {
            let keep_from = versions
                .iter()
                .rposition(|version| version.revision <= revision)
                .unwrap_or(0);
            versions.drain(..keep_from);
            versions
                .first()
                .is_some_and(|first| first.kv.is_some() || first.revision > revision || versions.len() > 1)
        });
        Ok(())
    }

    /// The changes to `keys` from revision `from` (inclusive) on, one batch per revision.
    ///
    /// # Errors
    /// If `from` is compacted.
    pub fn changes(&self, keys: &Keys, from: Revision) -> Result<Vec<WatchBatch>, StoreError> {
        if from <= self.compacted {
            return Err(StoreError::Compacted {
                revision: self.compacted,
            });
        }
        let batches = self.history.range(from..).filter_map(|(revision, events)| {
            let events: Vec<Event> = events
                .iter()
                .filter(|event| keys.contains(key_of(event)))
                .cloned()
                .collect();
            (!events.is_empty()).then_some(WatchBatch {
                revision: *revision,
                events,
            })
        });
        Ok(batches.collect())
    }

    fn check_revision(&self, revision: Revision) -> Result<(), StoreError> {
        if revision == Revision(0) {
            Ok(())
        } else if revision > self.revision {
            Err(StoreError::Refused {
                kind: RefusalKind::FutureRevision,
                reason: "required revision is a future revision".into(),
            })
        } else if revision < self.compacted {
            Err(StoreError::Compacted {
                revision: self.compacted,
            })
        } else {
            Ok(())
        }
    }

    fn read(&self, range: &Range, newest: Revision) -> Result<(Vec<KeyValue>, i64), StoreError> {
        self.check_revision(range.revision)?;
        let at = if range.revision == Revision(0) {
            newest
        } else {
            range.revision
        };
        let mut kvs: Vec<KeyValue> = self
            .versions(&range.keys)
            .filter_map(|versions| versions.iter().rfind(|version| version.revision <= at)?.kv.clone())
            .collect();
        // Keys excluded by revision still count.
        let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
        if range.max_create_revision > Revision(0) {
            kvs.retain(|kv| kv.create_revision <= range.max_create_revision);
        }
        match range.sort {
            Sort::Key => {}
            Sort::CreateAscending => kvs.sort_by_key(|kv| kv.create_revision),
            Sort::CreateDescending => kvs.sort_by_key(|kv| std::cmp::Reverse(kv.create_revision)),
        }
        if range.limit > 0 {
            kvs.truncate(range.limit);
        }
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                // As etcd 3.7, which reads its index only; earlier versions return the lease.
                kv.lease = None;
            }
        }
        Ok((kvs, count))
    }

    fn versions(&self, keys: &Keys) -> impl Iterator<Item = &Vec<Version>> {
        let bounds = match keys {
            Keys::One(key) => (Bound::Included(key.clone()), Bound::Included(key.clone())),
            Keys::Range { start, end } if start < end => (Bound::Included(start.clone()), Bound::Excluded(end.clone())),
            // An empty range: the map panics on a range that ends before it begins.
            Keys::Range { start, .. } => (Bound::Included(start.clone()), Bound::Excluded(start.clone())),
        };
        self.keys.range(bounds).map(|(_, versions)| versions)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found: Vec<&KeyValue> = self
            .versions(&compare.keys)
            .filter_map(|versions| versions.last()?.kv.as_ref())
            .collect();
        if found.is_empty() {
            let zero = Revision(0);
            return match &compare.target {
                Target::CreateRevision(revision) | Target::ModRevision(revision) => {
                    ordered(&zero, compare.ordering, revision)
                }
                Target::Version(version) => ordered(&0, compare.ordering, version),
                Target::Value(_) => false,
            };
        }
        found.into_iter().all(|kv| match &compare.target {
            Target::CreateRevision(revision) => ordered(&kv.create_revision, compare.ordering, revision),
            Target::ModRevision(revision) => ordered(&kv.mod_revision, compare.ordering, revision),
            Target::Version(version) => ordered(&kv.version, compare.ordering, version),
            Target::Value(value) => ordered(&kv.value, compare.ordering, value),
        })
    }

    fn put(&mut self, at: Revision, key: Bytes, value: Bytes, lease: Option<LeaseId>) -> Event {
        let before = self.get(&key).cloned();
        if let Some(old) = before.as_ref().and_then(|kv| kv.lease)
            && let Some(old) = self.leases.get_mut(&old)
        {
            old.keys.remove(&key);
        }
        if let Some(new) = lease.and_then(|id| self.leases.get_mut(&id)) {
            new.keys.insert(key.clone());
        }
        let kv = KeyValue {
            key: key.clone(),
            value,
            create_revision: before.as_ref().map_or(at, |kv| kv.create_revision),
            mod_revision: at,
            version: before.map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.keys.entry(key).or_default().push(Version {
            revision: at,
            kv: Some(kv.clone()),
        });
        Event::Put(kv)
    }

    fn delete(&mut self, at: Revision, keys: &Keys) -> Vec<Event> {
        let gone: Vec<KeyValue> = self
            .versions(keys)
            .filter_map(|versions| versions.last()?.kv.clone())
            .collect();
        for kv in &gone {
            if let Some(lease) = kv.lease.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.remove(&kv.key);
            }
            self.keys
                .entry(kv.key.clone())
                .or_default()
                .push(Version { revision: at, kv: None });
        }
        gone.into_iter()
            .map(|kv| Event::Delete {
                key: kv.key,
                revision: at,
            })
            .collect()
    }

    fn commit(&mut self, at: Revision, events: Vec<Event>) {
        if !events.is_empty() {
            self.revision = at;
            self.history.insert(at, events);
        }
    }
}

/// The branches that a transaction selects.
struct Path<'a> {
    succeeded: bool,
    ops: &'a [Op],
    nested: Vec<Self>,
}

/// Rejects a transaction that puts a key twice on a branch, or puts a key that the branch also deletes, as etcd does.
fn check_puts(ops: &[Op]) -> Result<(), StoreError> {
    writes(ops).map(drop)
}

/// The keys that a branch may put and delete, whichever branches its nested transactions select. etcd checks the
/// deletions first, then the nested transactions in order, then the puts. So a nested deletion may follow a nested put
/// of the same key.
fn writes(ops: &[Op]) -> Result<(BTreeSet<&Bytes>, Vec<&Keys>), StoreError> {
    let mut put = BTreeSet::new();
    let mut deleted: Vec<&Keys> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Delete(keys) => Some(keys),
            _ => None,
        })
        .collect();
    for op in ops {
        let Op::Txn(nested) = op else { continue };
        let (mut puts, deletes) = writes(&nested.success)?;
        let (more_puts, more_deletes) = writes(&nested.failure)?;
        // Only one of the branches is selected, so both may put the same key.
        puts.extend(more_puts);
        add_puts(&mut put, puts, &deleted)?;
        deleted.extend(deletes);
        deleted.extend(more_deletes);
    }
    for op in ops {
        if let Op::Put { key, .. } = op {
            add_puts(&mut put, BTreeSet::from([key]), &deleted)?;
        }
    }
    Ok((put, deleted))
}

fn add_puts<'a>(put: &mut BTreeSet<&'a Bytes>, more: BTreeSet<&'a Bytes>, deleted: &[&Keys]) -> Result<(), StoreError> {
    for key in more {
        if deleted.iter().any(|keys| keys.contains(key)) || !put.insert(key) {
            return Err(StoreError::refused(
                "a transaction puts one key twice, or puts and deletes it",
            ));
        }
    }
    Ok(())
}

fn ordered<T: Ord>(stored: &T, ordering: Ordering, given: &T) -> bool {
    match ordering {
        Ordering::Equal => stored == given,
        Ordering::NotEqual => stored != given,
        Ordering::Greater => stored > given,
        Ordering::Less => stored < given,
    }
}

fn key_of(event: &Event) -> &[u8] {
    match event {
        Event::Put(kv) => &kv.key,
        Event::Delete { key, .. } => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn put(model: &mut Model, key: &str, value: &str, lease: Option<LeaseId>) -> Revision {
        let op = Op::Put {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            lease,
        };
        model.txn(&Txn::default().then(vec![op])).unwrap().revision
    }

    fn keys(model: &Model, range: &Range) -> Vec<String> {
        let kvs = model.range(range).unwrap().kvs;
        kvs.into_iter()
            .map(|kv| String::from_utf8(kv.key.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn revisions_count_changes_and_versions_begin_anew_after_a_deletion() {
        let mut model = Model::new(0);
        assert_eq!(put(&mut model, "a", "1", None), Revision(2));
        assert_eq!(put(&mut model, "a", "2", None), Revision(3));
        let kv = model.get(b"a").unwrap();
        assert_eq!(
            (kv.create_revision, kv.mod_revision, kv.version),
            (Revision(2), Revision(3), 2)
        );
        // Nothing changes, so the revision does not either.
        assert_eq!(
            model.txn(&Txn::default().then(vec![Op::delete("b")])).unwrap().revision,
            Revision(3)
        );
        model.txn(&Txn::default().then(vec![Op::delete("a")])).unwrap();
        put(&mut model, "a", "3", None);
        let kv = model.get(b"a").unwrap();
        assert_eq!((kv.create_revision, kv.version), (Revision(5), 1));
    }

    #[test]
    fn the_past_can_be_read_until_it_is_compacted() {
        let mut model = Model::new(0);
        put(&mut model, "a", "1", None);
        put(&mut model, "a", "2", None);
        model.txn(&Txn::default().then(vec![Op::delete("a")])).unwrap();
        let past = |revision| Range {
            revision: Revision(revision),
            ..Range::all(Keys::one("a"))
        };
        assert_eq!(model.range(&past(2)).unwrap().kvs[0].value, "1");
        assert_eq!(model.range(&past(3)).unwrap().kvs[0].value, "2");
        assert!(model.range(&past(4)).unwrap().kvs.is_empty());
        assert!(model.range(&past(5)).is_err());
        model.compact(Revision(3)).unwrap();
        assert!(matches!(model.range(&past(2)), Err(StoreError::Compacted { .. })));
        assert_eq!(model.range(&past(3)).unwrap().kvs[0].value, "2");
        assert!(matches!(
            model.changes(&Keys::one("a"), Revision(3)),
            Err(StoreError::Compacted { .. })
        ));
        assert_eq!(model.changes(&Keys::one("a"), Revision(4)).unwrap().len(), 1);
    }

    #[test]
    fn a_lease_takes_its_keys_with_it_at_one_revision() {
        let mut model = Model::new(0);
        let lease = model.grant(at(0), Duration::from_millis(2_500));
        assert_eq!(lease.ttl, Duration::from_secs(3));
        put(&mut model, "a", "1", Some(lease.id));
        put(&mut model, "b", "1", Some(lease.id));
        put(&mut model, "c", "1", Some(lease.id));
        // Put again without the lease: it stays.
        put(&mut model, "c", "2", None);
        model.expire(at(2));
        assert!(model.get(b"a").is_some());
        model.keep_alive(at(2), lease.id).unwrap();
        model.expire(at(4));
        assert!(model.get(b"a").is_some());
        model.expire(at(5));
        assert!(model.get(b"a").is_none() && model.get(b"b").is_none() && model.get(b"c").is_some());
        let last = model.changes(&Keys::prefix("a"), Revision(1)).unwrap().pop().unwrap();
        assert_eq!(last.revision, model.revision());
        assert!(matches!(
            model.keep_alive(at(5), lease.id),
            Err(StoreError::LeaseNotFound { .. })
        ));
        let op = Op::Put {
            key: "a".into(),
            value: "1".into(),
            lease: Some(lease.id),
        };
        assert!(matches!(
            model.txn(&Txn::default().then(vec![op])),
            Err(StoreError::LeaseNotFound { .. })
        ));
    }

    #[test]
    fn short_ttls_are_raised() {
        assert_eq!(Model::new(0).grant(at(0), Duration::from_secs(1)).ttl, MIN_TTL);
    }

    #[test]
    fn compares_over_nothing_compare_with_zero() {
        let model = Model::new(0);
        assert!(model.holds(&Compare::absent("a")));
        assert!(!model.holds(&Compare::created_at("a", Revision(1))));
        let value = |ordering| Compare {
            keys: Keys::one("a"),
            ordering,
            target: Target::Value("".into()),
        };
        assert!(!model.holds(&value(Ordering::Equal)) && !model.holds(&value(Ordering::NotEqual)));
    }

    #[test]
    fn the_predecessor_is_found_by_create_revision() {
        let mut model = Model::new(0);
        for key in ["/l/c", "/l/a", "/l/b"] {
            put(&mut model, key, "", None);
        }
        let older = Range {
            sort: Sort::CreateDescending,
            limit: 1,
            max_create_revision: Revision(3),
            ..Range::all(Keys::prefix("/l/"))
        };
        assert_eq!(keys(&model, &older), ["/l/a"]);
        assert_eq!(model.range(&older).unwrap().count, 3);
        assert_eq!(keys(&model, &Range::oldest(Keys::prefix("/l/"))), ["/l/c"]);
    }

    #[test]
    fn a_transaction_is_all_or_nothing_and_sees_itself() {
        let mut model = Model::new(0);
        let txn = Txn::when(vec![Compare::absent("a")])
            .then(vec![Op::put("a", "1"), Op::get("a"), Op::put("b", "1")])
            .or_else(vec![Op::get("a")]);
        let answer = model.txn(&txn).unwrap();
        assert!(answer.succeeded && answer.revision == Revision(2));
        assert!(matches!(&answer.results[1], OpResult::Range { kvs, .. } if kvs[0].value == "1"));
        let again = model.txn(&txn).unwrap();
        assert!(!again.succeeded && again.revision == Revision(2) && again.results.len() == 1);
        assert_eq!(
            model.changes(&Keys::prefix("a"), Revision(2)).unwrap()[0].events.len(),
            1
        );
        let twice = Txn::default().then(vec![Op::put("a", "1"), Op::put("a", "2")]);
        assert!(matches!(model.txn(&twice), Err(StoreError::Refused { .. })));
    }

    #[test]
    fn nested_transactions_have_conditions_and_answers_of_their_own() {
        let mut model = Model::new(0);
        let once = |key: &'static str| Op::Txn(Txn::when(vec![Compare::absent(key)]).then(vec![Op::put(key, "1")]));
        put(&mut model, "b", "0", None);
        // The last one looks at what the first one puts, before it is put.
        let last = Op::Txn(Txn::when(vec![Compare::absent("a")]).then(vec![Op::put("c", "1"), Op::get("a")]));
        let failing = Op::Txn(Txn::when(vec![Compare::absent("b")]).or_else(vec![Op::get("b")]));
        let answer = model.txn(&Txn::default().then(vec![once("a"), failing, last])).unwrap();
        assert_eq!(answer.revision, Revision(3));
        let told: Vec<_> = answer
            .results
            .iter()
            .map(|result| match result {
                OpResult::Txn { succeeded, results } => (*succeeded, results.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [(true, 1), (false, 1), (true, 2)]);
        assert_eq!(model.changes(&Keys::prefix("a"), Revision(3)).unwrap().len(), 1);
        let twice = Txn::default().then(vec![once("d"), Op::put("d", "2")]);
        assert!(matches!(model.txn(&twice), Err(StoreError::Refused { .. })));
        assert!(model.get(b"d").is_none());
    }
}
