//! The leader's copy of the state, in memory: what its readers read and its watchers watch. Pure; no I/O.
//!
//! Each key has the revision of its last change, and takes only newer ones: what the leader has written itself, what a
//! conflict has shown and what the watch brings may come in any order.
//!
//! For watchers every change of a node gets a number, and a node has only the newest of its own: whoever has seen all up to
//! a number gets what is beyond it, each node once, in the order of their changes. That is all that is kept for a watcher,
//! so a slow one costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::failpoint;
use bytes::Bytes;
use curator_election::WentBack;
use curator_election::store::{Compare, Event, KeyValue, Keys, Ordering, Revision, Target};

use crate::state::fenced::Change;
use crate::state::keys;
use crate::state::keys::NODES;
use crate::state::record::{Corrupt, NodeRecord};

/// How many deleted nodes are remembered, for watchers that have not heard of it yet.
const MAX_TOMBSTONES: usize = 10_000;

/// A value, and when it was last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) changed: Revision,
}

/// A node's record, decoded once.
pub(crate) type Node = Result<Arc<NodeRecord>, Arc<Corrupt>>;

/// A node's newest change, by number.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    /// The number of the change.
    pub(crate) number: u64,
    /// Which node.
    pub(crate) id: Arc<str>,
    /// What it has become; `None` if it is deleted.
    pub(crate) node: Option<Node>,
}

/// A watcher has been away for so long that deletions since then are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watch has fallen too far behind: watch anew")]
pub(crate) struct TooFarBehind;

#[derive(Debug, Default)]
pub(crate) struct View {
    entries: BTreeMap<Bytes, Entry>,
    /// The size of all keys and values in `entries`.
    bytes: usize,
    /// When keys were deleted, until nothing older can come any more.
    deleted: BTreeMap<Bytes, Revision>,
    nodes: BTreeMap<Arc<str>, Slot>,
    changes: BTreeMap<u64, Arc<str>>,
    newest: u64,
    tombstones: BTreeMap<u64, Arc<str>>,
    /// The newest tombstone that is forgotten.
    forgotten: u64,
    /// Which nodes have a WireGuard key: one, unless somebody else has written it.
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

    /// All nodes, by id.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.nodes
            .iter()
            .filter_map(|(id, slot)| Some((id, slot.node.as_ref()?)))
    }

    /// The nodes after this id, by id.
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

    /// The keys that begin with a prefix.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Bytes, &'a Entry)> {
        self.entries
            .range::<[u8], _>((Bound::Included(prefix.as_bytes()), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix.as_bytes()))
    }

    /// The nodes that have this WireGuard key.
    pub(crate) fn wireguard_owners(&self, key: &str) -> impl Iterator<Item = &str> {
        self.wireguard.get(key).into_iter().flatten().map(|id| &**id)
    }

    /// The number of the newest change.
    pub(crate) const fn newest(&self) -> u64 {
        self.newest
    }

    /// What has changed after the change with this number, each node once.
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

    /// A node's newest change, if it is after that with this number.
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

    /// Whether a condition of the change does not hold any more. If none is known, the store may still know one.
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

    /// Takes in that a key was put.
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
        // The same bytes again are no news to a watcher, though the record's revision has moved.
        let news = before.is_none_or(|before| before.value != value);
        if let Some(id) = NODES.id(&key) {
            let node = NodeRecord::decode(id, &value).map(Arc::new).map_err(Arc::new);
            self.node_changed(id, Some(node), news);
        }
    }

    /// Takes in that a key was deleted.
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

    /// Takes in what the watch brings, whole revisions in their order: nothing older will follow.
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

    /// Whether what was found at revision `at` is older than what is known from before: then the store has lost it, because
    /// a key's revision never decreases.
    pub(crate) fn contradicted<'a>(
        &self,
        found: impl IntoIterator<Item = &'a KeyValue>,
        at: Revision,
    ) -> Option<WentBack> {
        found.into_iter().find_map(|kv| {
            let known = self.entries.get(&kv.key)?.changed;
            // What is known by now may be newer than the read.
            let lost = kv.mod_revision < known && known <= at;
            lost.then_some(WentBack {
                seen: known,
                found: kv.mod_revision,
            })
        })
    }

    /// Takes in all of the keys that are viewed, as read at one revision: what is not among them is deleted.
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
            // One that was put after the read stays, since its revision is newer.
            self.delete(&key, at);
        }
        self.deleted.retain(|_, deleted| *deleted > at);
    }

    /// Whether what is known of the key is as new.
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

/// All keys that a leader reads at its beginning, and watches from then on: one range, so that one watch does.
pub(crate) fn watched() -> Keys {
    Keys::prefix(keys::ALL)
}
