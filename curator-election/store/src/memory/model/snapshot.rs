//! Snapshots of a store, and their restore, as of a backup.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{LeaseState, Model, Version};
use crate::clock::Instant;
use crate::{Event, LeaseId, Revision};

/// A snapshot of a store: keys, history and leases.
#[derive(Clone, Debug)]
pub struct Snapshot {
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<Bytes, Vec<Version>>,
    history: BTreeMap<Revision, Vec<Event>>,
    leases: BTreeMap<LeaseId, LeaseState>,
}

impl Snapshot {
    /// The revision of the snapshot.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }
}

impl Model {
    /// Takes a snapshot, as `etcdctl snapshot save` does.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            revision: self.revision,
            compacted: self.compacted,
            keys: self.keys.clone(),
            history: self.history.clone(),
            leases: self.leases.clone(),
        }
    }

    /// Restores a snapshot: later changes are lost, and their revisions are reused. Each lease of the snapshot gets its
    /// full TTL, as at a start of etcd.
    pub fn go_back_to(&mut self, snapshot: Snapshot, now: Instant) {
        let Snapshot {
            revision,
            compacted,
            keys,
            history,
            mut leases,
        } = snapshot;
        for lease in leases.values_mut() {
            lease.expires_at = now + lease.ttl;
        }
        self.revision = revision;
        self.compacted = compacted;
        self.keys = keys;
        self.history = history;
        self.leases = leases;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::Instant;
    use crate::memory::model::Model;
    use crate::{Keys, Op, Revision, StoreError, Txn};

    fn put(model: &mut Model, key: &'static str) -> Revision {
        model
            .txn(&Txn::default().then(vec![Op::put(key, "v")]))
            .expect("no faults")
            .revision
    }

    #[test]
    fn a_restored_store_knows_nothing_of_what_came_after_the_snapshot() {
        let at = |seconds| Instant::from_origin(Duration::from_secs(seconds));
        let mut model = Model::new(1);
        let kept = model.grant(at(0), Duration::from_secs(5)).unwrap().id;
        put(&mut model, "a");
        let snapshot = model.snapshot();
        assert_eq!(snapshot.revision(), model.revision());
        let lost = model.grant(at(0), Duration::from_secs(5)).unwrap().id;
        put(&mut model, "b");
        put(&mut model, "b");

        model.go_back_to(snapshot.clone(), at(4));
        assert_eq!(model.revision(), snapshot.revision());
        assert!(model.get(b"a").is_some() && model.get(b"b").is_none());
        // The lease has its full TTL again.
        model.expire(at(8));
        let kept = model.keep_alive(at(8), kept);
        assert_eq!(kept.expect("is there"), Duration::from_secs(5));
        assert!(matches!(
            model.keep_alive(at(8), lost),
            Err(StoreError::LeaseNotFound { .. })
        ));
        // Revisions are reused.
        let again = put(&mut model, "c");
        assert_eq!(again, snapshot.revision().next());
        let changes = model.changes(&Keys::prefix("c"), again).expect("is kept");
        assert_eq!(changes.len(), 1);
    }
}
