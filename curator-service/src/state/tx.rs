//! A read and what is to be written because of it, as one transaction.
//!
//! What a decision has read, it depends on: each key that was looked at becomes a condition, that it is still as it was. So
//! nothing is written because of what is not so any more, whoever has changed it, and no lock is held meanwhile.

use std::collections::BTreeMap;

use crate::failpoint;
use bytes::Bytes;
use curator_election::store::{Compare, Op, Revision};

use crate::state::fenced::Change;
use crate::state::keys::{InvalidId, NODES};
use crate::state::view::{Entry, Node, View};

/// What a decision reads and writes.
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

    /// A key's value. What is decided depends on it from now on.
    pub(crate) fn get(&mut self, key: impl Into<Bytes>) -> Option<&'a Entry> {
        let key = key.into();
        let entry = self.view.get(&key);
        self.reads.insert(key, entry.map_or(Revision(0), |entry| entry.changed));
        entry
    }

    /// A node's record. What is decided depends on it from now on.
    pub(crate) fn node(&mut self, id: &str) -> Result<Option<&'a Node>, InvalidId> {
        self.get(NODES.key(id)?);
        Ok(self.view.node(id))
    }

    /// The state, without depending on it: for what is checked in another way.
    pub(crate) const fn peek(&self) -> &'a View {
        self.view
    }

    pub(crate) fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    pub(crate) fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.insert(key.into(), None);
    }

    /// What is to be done; `None` if nothing is.
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
