//! A decision and its reads and writes, as one transaction.
//!
//! A decision depends on what it has read: each key that was read becomes a condition that the key is unchanged. So
//! nothing is written on the basis of stale values, whoever changed them, and no lock is held.

use std::collections::BTreeMap;

use bytes::Bytes;
use curator_election::store::{Compare, Op, Revision};

use crate::failpoint;
use crate::state::keys::{InvalidId, NODES};
use crate::state::view::{Entry, Node, View};
use curator_election::fence::Change;

/// The reads and writes of a decision.
pub(crate) struct Tx<'a> {
    view: &'a View,
    reads: BTreeMap<Bytes, Revision>,
    writes: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Tx<'a> {
    pub(crate) const fn new(view: &'a View) -> Self {
        Self {
            view,
            reads: BTreeMap::new(),
            writes: BTreeMap::new(),
        }
    }

    /// A key's value. The decision depends on it.
    pub(crate) fn get(&mut self, key: impl Into<Bytes>) -> Option<&'a Entry> {
        let key = key.into();
        let entry = self.view.get(&key);
        self.reads.insert(key, entry.map_or(Revision(0), |entry| entry.changed));
        entry
    }

    /// A node's record. The decision depends on it.
    pub(crate) fn node(&mut self, id: &str) -> Result<Option<&'a Node>, InvalidId> {
        self.get(NODES.key(id)?);
        Ok(self.view.node(id))
    }

    /// The state without a dependency, for values that are checked in another way.
    pub(crate) const fn peek(&self) -> &'a View {
        self.view
    }

    pub(crate) fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.insert(key.into(), None);
    }

    /// The change to make; `None` if there are no writes.
    pub(crate) fn into_change(self) -> Option<Change> {
        if self.writes.is_empty() {
            return None;
        }
        Some(Change {
            conditions: self
                .reads
                .into_iter()
                .filter(|_| !failpoint::on(failpoint::WRITES_WITHOUT_CONDITIONS))
                .map(|(key, changed)| Compare::changed_at(key, changed))
                .collect(),
            ops: self
                .writes
                .into_iter()
                .map(|(key, value)| match value {
                    Some(value) => Op::put(key, value),
                    None => Op::delete(key),
                })
                .collect(),
        })
    }
}
