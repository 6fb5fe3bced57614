//! The leader's copy of the state in memory, for readers and watchers. Pure; no I/O.
//!
//! Each key has the revision of its last change and accepts only newer ones. So the leader's own writes, the results of
//! conflicts and watch events may arrive in any order.
//!
//! Every change of a node gets a sequence number, and a node has only the number of its newest change. A watcher that
//! has seen all changes up to a number gets the nodes with higher numbers, each node once, in order. The view keeps
//! nothing else for a watcher, so a slow watcher costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use curator_election::WentBack;
use curator_election::store::{Compare, Event, KeyValue, Keys, Ordering, Revision, Target};

use crate::failpoint;
use crate::state::keys;
use crate::state::keys::NODES;
use crate::state::record::{Corrupt, NodeRecord};
use curator_election::fence::Change;

/// The maximum number of deleted nodes that are kept for watchers.
const MAX_TOMBSTONES: usize = 10_000;

/// A value and the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) changed: Revision,
}

/// A node's decoded record.
pub(crate) type Node = Result<Arc<NodeRecord>, Arc<Corrupt>>;

/// A node's newest change.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    /// The sequence number of the change.
    pub(crate) number: u64,
    /// The node's id.
    pub(crate) id: Arc<str>,
    /// The node's new record; `None` if the node is deleted.
    pub(crate) node: Option<Node>,
}

/// The watcher is behind: deletions that it has not seen are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watch is too far behind: start a new one")]
pub(crate) struct TooFarBehind;

#[derive(Debug, Default)]
pub(crate) struct View {
    entries: BTreeMap<Bytes, Entry>,
    /// The size of all keys and values in `entries`.
    bytes: usize,
    /// The revisions of deletions, kept until no older event can arrive.
    deleted: BTreeMap<Bytes, Revision>,
    nodes: BTreeMap<Arc<str>, Slot>,
    changes: BTreeMap<u64, Arc<str>>,
    newest: u64,
    tombstones: BTreeMap<u64, Arc<str>>,
    /// The newest tombstone that was dropped.
    forgotten: u64,
    /// The nodes that have a WireGuard key. There is one unless another writer has stored a duplicate.
    wireguard: BTreeMap<String, BTreeSet<Arc<str>>>,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    node: Option<Node>,
}

impl View {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.get(id)?.node.as_ref()
    }

    /// All nodes, ordered by id.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.nodes
            .iter()
            .filter_map(|(id, slot)| Some((id, slot.node.as_ref()?)))
    }

    /// The nodes after this id, ordered by id.
    pub(crate) fn nodes_after(&self, id: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.nodes
            .range::<str, _>((from, Bound::Unbounded))
            .filter_map(|(id, slot)| Some((id, slot.node.as_ref()?)))
    }

    /// The size of all keys and values, in bytes.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The keys with a prefix.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Bytes, &'a Entry)> {
        self.entries
            .range::<[u8], _>((Bound::Included(prefix.as_bytes()), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix.as_bytes()))
    }

    /// The nodes with this WireGuard key.
    pub(crate) fn wireguard_owners(&self, key: &str) -> impl Iterator<Item = &str> {
        self.wireguard.get(key).into_iter().flatten().map(|id| &**id)
    }

    /// The sequence number of the newest change.
    pub(crate) const fn newest(&self) -> u64 {
        self.newest
    }

    /// The changes after this sequence number, each node once.
    pub(crate) fn changes_after(&self, number: u64, most: usize) -> Result<Vec<Changed>, TooFarBehind> {
        if number < self.forgotten {
            return Err(TooFarBehind);
        }
        let changes = self.changes.range((Bound::Excluded(number), Bound::Unbounded));
        Ok(changes
            .take(most)
            .map(|(number, id)| Changed {
                number: *number,
                id: id.clone(),
                node: self.nodes.get(id).and_then(|slot| slot.node.clone()),
            })
            .collect())
    }

    /// A node's newest change, if it is after this sequence number.
    pub(crate) fn change_of(&self, id: &str, after: u64) -> Result<Option<Changed>, TooFarBehind> {
        match self.nodes.get_key_value(id) {
            Some((id, slot)) => Ok((slot.number > after).then(|| Changed {
                number: slot.number,
                id: id.clone(),
                node: slot.node.clone(),
            })),
            None if after < self.forgotten => Err(TooFarBehind),
            None => Ok(None),
        }
    }

    /// Whether a condition of the change is known to fail. The store may know of others.
    pub(crate) fn has_overtaken(&self, change: &Change) -> bool {
        change.conditions.iter().any(|condition| match condition {
            Compare {
                keys: Keys::One(key),
                ordering: Ordering::Equal,
                target: Target::ModRevision(expected),
            } => self.get(key).map_or(Revision(0), |entry| entry.changed) != *expected,
            _ => false,
        })
    }

    /// Applies a put.
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes, changed: Revision) {
        if self.knows(&key, changed) {
            return;
        }
        self.deleted.remove(&key);
        self.bytes += key.len() + value.len();
        let before = self.entries.insert(
            key.clone(),
            Entry {
                value: value.clone(),
                changed,
            },
        );
        if let Some(before) = &before {
            self.bytes -= key.len() + before.value.len();
        }
        // An unchanged value is not a change for watchers, although the record's revision is newer.
        let news = before.is_none_or(|before| before.value != value);
        if let Some(id) = NODES.id(&key) {
            let node = NodeRecord::decode(id, &value).map(Arc::new).map_err(Arc::new);
            self.node_changed(id, Some(node), news);
        }
    }

    /// Applies a deletion.
    pub(crate) fn delete(&mut self, key: &Bytes, at: Revision) {
        if self.knows(key, at) {
            return;
        }
        self.deleted.insert(key.clone(), at);
        let Some(before) = self.entries.remove(key) else {
            return;
        };
        self.bytes -= key.len() + before.value.len();
        if let Some(id) = NODES.id(key) {
            self.node_changed(id, None, true);
        }
    }

    /// Applies watch events, in whole revisions and in order: no older event will follow.
    pub(crate) fn follow(&mut self, events: Vec<Event>) {
        let mut followed = Revision(0);
        for event in events {
            followed = followed.max(match &event {
                Event::Put(kv) => kv.mod_revision,
                Event::Delete { revision, .. } => *revision,
            });
            match event {
                Event::Put(kv) if keys::is_viewed(&kv.key) => self.put(kv.key, kv.value, kv.mod_revision),
                Event::Delete { key, revision } if keys::is_viewed(&key) => self.delete(&key, revision),
                Event::Put(_) | Event::Delete { .. } => {}
            }
        }
        self.deleted.retain(|_, at| *at > followed);
    }

    /// Whether a key was read at revision `at` with an older revision than the view has. Then the store has lost data,
    /// because a key's revision never decreases.
    pub(crate) fn contradicted<'a>(
        &self,
        found: impl IntoIterator<Item = &'a KeyValue>,
        at: Revision,
    ) -> Option<WentBack> {
        found.into_iter().find_map(|kv| {
            let known = self.entries.get(&kv.key)?.changed;
            // The view's revision may be newer than the read.
            let lost = kv.mod_revision < known && known <= at;
            lost.then_some(WentBack {
                seen: known,
                found: kv.mod_revision,
            })
        })
    }

    /// Replaces the viewed keys by those read at one revision: keys that were not found are deleted.
    pub(crate) fn reset(&mut self, found: Vec<KeyValue>, at: Revision) {
        let mut known: BTreeMap<Bytes, ()> = BTreeMap::new();
        for kv in found {
            if keys::is_viewed(&kv.key) {
                known.insert(kv.key.clone(), ());
                self.put(kv.key, kv.value, kv.mod_revision);
            }
        }
        let gone: Vec<Bytes> = self
            .entries
            .keys()
            .filter(|key| keys::is_viewed(key) && !known.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            // A key that was put after the read stays, since its revision is newer.
            self.delete(&key, at);
        }
        self.deleted.retain(|_, deleted| *deleted > at);
    }

    /// Whether the view's revision of the key is at least as new.
    fn knows(&self, key: &Bytes, at: Revision) -> bool {
        if failpoint::on(failpoint::VIEW_GOES_BACK) {
            return false;
        }
        let put = self.entries.get(key).map(|entry| entry.changed);
        let deleted = self.deleted.get(key).copied();
        put.max(deleted).is_some_and(|known| known >= at)
    }

    fn node_changed(&mut self, id: &str, node: Option<Node>, news: bool) {
        let id: Arc<str> = id.into();
        let number = match (self.nodes.get(&id), news) {
            (Some(slot), false) => slot.number,
            (slot, _) => {
                if let Some(old) = slot {
                    self.changes.remove(&old.number);
                    self.tombstones.remove(&old.number);
                }
                self.newest += 1;
                self.changes.insert(self.newest, id.clone());
                self.newest
            }
        };
        if node.is_none() {
            self.tombstones.insert(number, id.clone());
        }
        if let Some(key) = node.as_ref().and_then(wireguard_key) {
            self.wireguard.entry(key.to_owned()).or_default().insert(id.clone());
        }
        let before = self.nodes.insert(id.clone(), Slot { number, node });
        let before = before.and_then(|slot| slot.node);
        if let Some(old) = before.as_ref().and_then(wireguard_key)
            && self.node(&id).and_then(wireguard_key) != Some(old)
            && let Some(owners) = self.wireguard.get_mut(old)
        {
            owners.remove(&id);
            if owners.is_empty() {
                self.wireguard.remove(old);
            }
        }
        while self.tombstones.len() > MAX_TOMBSTONES
            && let Some((number, id)) = self.tombstones.pop_first()
        {
            self.changes.remove(&number);
            self.nodes.remove(&id);
            self.forgotten = number;
        }
    }
}

fn wireguard_key(node: &Node) -> Option<&str> {
    let net = node.as_ref().ok()?.message().clusternet.as_ref()?;
    Some(&net.wireguard_pubkey)
}

/// All keys that a leader reads at the start of its term and then watches, as one range for one watch.
pub(crate) fn watched() -> Keys {
    Keys::prefix(keys::ALL)
}
