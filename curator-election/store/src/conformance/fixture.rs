//! The fixture of the cases: a store, a key prefix, and helpers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Compare, Event, KeyValue, Keys, LeaseId, Op, OpResult, Range, Revision, Store, StoreError, Txn, TxnResult,
    WatchStream,
};

/// The timeout of waits: longer than the TTL of any lease of the cases.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A store, and the prefix of the keys of one case.
pub(super) struct Fixture {
    pub(super) store: Arc<dyn Store>,
    prefix: String,
}

impl Fixture {
    pub(super) fn new(store: Arc<dyn Store>, prefix: String) -> Self {
        Self { store, prefix }
    }

    pub(super) fn key(&self, name: &str) -> Bytes {
        format!("{}{name}", self.prefix).into()
    }

    /// All keys of the case.
    pub(super) fn all(&self) -> Keys {
        Keys::prefix(self.prefix.clone())
    }

    pub(super) fn one(&self, name: &str) -> Keys {
        Keys::One(self.key(name))
    }

    /// The full key for a name.
    pub(super) fn name(&self, key: &Bytes) -> String {
        let key = std::str::from_utf8(key).unwrap();
        key.strip_prefix(&self.prefix).unwrap().to_owned()
    }

    pub(super) fn put_op(&self, name: &str, value: &str) -> Op {
        Op::put(self.key(name), value.to_owned())
    }

    pub(super) fn leased_op(&self, name: &str, lease: LeaseId) -> Op {
        Op::Put {
            key: self.key(name),
            value: "leased".into(),
            lease: Some(lease),
        }
    }

    pub(super) async fn run(&self, ops: Vec<Op>) -> TxnResult {
        self.store.txn(Txn::default().then(ops)).await.unwrap()
    }

    pub(super) async fn refused(&self, ops: Vec<Op>) -> StoreError {
        self.store.txn(Txn::default().then(ops)).await.unwrap_err()
    }

    pub(super) async fn put(&self, name: &str, value: &str) -> Revision {
        self.run(vec![self.put_op(name, value)]).await.revision
    }

    pub(super) async fn delete(&self, name: &str) -> Revision {
        self.run(vec![Op::delete(self.key(name))]).await.revision
    }

    pub(super) async fn get(&self, name: &str) -> Option<KeyValue> {
        let found = self.store.range(Range::all(self.one(name))).await.unwrap();
        assert_eq!(found.count, i64::try_from(found.kvs.len()).unwrap());
        found.kvs.into_iter().next()
    }

    pub(super) async fn revision(&self) -> Revision {
        self.store.range(Range::all(self.all())).await.unwrap().revision
    }

    /// The names of the keys that a read returns, in order.
    pub(super) async fn names(&self, range: Range) -> Vec<String> {
        let found = self.store.range(range).await.unwrap();
        found.kvs.iter().map(|kv| self.name(&kv.key)).collect()
    }

    /// Whether a compare holds.
    pub(super) async fn holds(&self, compare: Compare) -> bool {
        self.store.txn(Txn::when(vec![compare])).await.unwrap().succeeded
    }

    pub(super) async fn watch(&self, keys: Keys, from: Revision) -> Events {
        Events {
            stream: self.store.watch(keys, from).await.unwrap(),
            seen: Vec::new(),
            last: Revision(0),
        }
    }
}

/// The events of a watch, independent of the store's batches.
pub(super) struct Events {
    stream: WatchStream,
    seen: Vec<Event>,
    last: Revision,
}

impl Events {
    /// The next `count` events. They must be in order, with complete revisions.
    pub(super) async fn next(&mut self, count: usize) -> Vec<Event> {
        while self.seen.len() < count {
            let batch = tokio::time::timeout(WAIT_TIMEOUT, self.stream.next()).await;
            let batch = batch
                .expect("the watch delivers an event in time")
                .expect("the watch continues")
                .unwrap();
            if let Some(first) = batch.events.first() {
                // A revision is never split over batches.
                assert!(revision_of(first) > self.last, "{batch:?} after {}", self.last);
            }
            for event in batch.events {
                let revision = revision_of(&event);
                assert!(
                    self.last <= revision && revision <= batch.revision,
                    "{event:?} after {}",
                    self.last
                );
                self.last = revision;
                self.seen.push(event);
            }
        }
        self.seen.drain(..count).collect()
    }
}

/// The revision of a change.
pub(super) fn revision_of(event: &Event) -> Revision {
    match event {
        Event::Put(kv) => kv.mod_revision,
        Event::Delete { revision, .. } => *revision,
    }
}

/// The result of a read in a transaction.
pub(super) fn read(result: &OpResult) -> &[KeyValue] {
    match result {
        OpResult::Range { kvs, .. } => kvs,
        other => panic!("not the result of a read: {other:?}"),
    }
}
