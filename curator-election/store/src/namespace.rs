//! Namespaces: a key prefix for each component.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Compare, Event, KeyValue, Keys, Lease, LeaseId, Op, OpResult, Range, RangeResult, Revision, Store, StoreError,
    TimeToLive, Txn, TxnResult, WatchBatch, WatchStream,
};

/// The prefix of all keys of a component: parts joined by colons, followed by a slash.
///
/// Curator's own keys begin with a slash, so there are two slashes in the store:
/// `namespaced:curator//leader/694d…`.
///
/// ```
/// use curator_store::namespace::Namespace;
/// let namespace: Namespace = "namespaced:curator".parse()?;
/// assert_eq!(namespace.prefix(), "namespaced:curator/");
/// # Ok::<(), curator_store::namespace::NamespaceError>(())
/// ```
///
/// No key leaves the namespace, unless the store is made by [`Namespaced::with_siblings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    prefix: String,
    /// Whether a key may name a sibling.
    siblings: bool,
}

/// An invalid namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no namespace: give parts with colons between them, none of which is empty or contains a slash, for \
     example namespaced:curator"
)]
pub struct NamespaceError {
    given: String,
}

impl Namespace {
    /// Without parts: the prefix is a single slash.
    #[must_use]
    pub fn root() -> Self {
        Self {
            prefix: "/".into(),
            siblings: false,
        }
    }

    /// The prefix of all keys.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn add(&self, key: &[u8]) -> Bytes {
        match sibling(key).filter(|_| self.siblings) {
            Some((name, key)) => [self.parent().as_bytes(), name, b"/", key].concat().into(),
            None => [self.prefix.as_bytes(), key].concat().into(),
        }
    }

    /// All parts but the last, with the colon after them.
    fn parent(&self) -> &str {
        self.prefix.rfind(':').map_or("", |colon| &self.prefix[..=colon])
    }

    fn add_to(&self, keys: Keys) -> Keys {
        match keys {
            Keys::One(key) => Keys::One(self.add(&key)),
            Keys::Range { start, end } => Keys::Range {
                start: self.add(&start),
                end: self.add(&end),
            },
        }
    }

    /// The key without the prefix. All keys that the store returns have the prefix.
    fn strip(&self, key: &Bytes) -> Bytes {
        if key.starts_with(self.prefix.as_bytes()) {
            key.slice(self.prefix.len()..)
        } else {
            // One of a sibling.
            [b"@", key.strip_prefix(self.parent().as_bytes()).unwrap_or(key)]
                .concat()
                .into()
        }
    }

    fn strip_kv(&self, mut kv: KeyValue) -> KeyValue {
        kv.key = self.strip(&kv.key);
        kv
    }

    fn add_to_op(&self, op: Op) -> Op {
        match op {
            Op::Range(range) => Op::Range(self.add_to_range(range)),
            Op::Put { key, value, lease } => Op::Put {
                key: self.add(&key),
                value,
                lease,
            },
            Op::Delete(keys) => Op::Delete(self.add_to(keys)),
            Op::Txn(nested) => Op::Txn(self.add_to_txn(nested)),
        }
    }

    fn add_to_range(&self, mut range: Range) -> Range {
        range.keys = self.add_to(range.keys);
        range
    }

    fn add_to_txn(&self, txn: Txn) -> Txn {
        let compare = |compare: Compare| Compare {
            keys: self.add_to(compare.keys),
            ..compare
        };
        Txn {
            compares: txn.compares.into_iter().map(compare).collect(),
            success: txn.success.into_iter().map(|op| self.add_to_op(op)).collect(),
            failure: txn.failure.into_iter().map(|op| self.add_to_op(op)).collect(),
        }
    }

    fn strip_result(&self, result: OpResult) -> OpResult {
        match result {
            OpResult::Range { kvs, count } => OpResult::Range {
                kvs: kvs.into_iter().map(|kv| self.strip_kv(kv)).collect(),
                count,
            },
            OpResult::Txn { succeeded, results } => OpResult::Txn {
                succeeded,
                results: results.into_iter().map(|result| self.strip_result(result)).collect(),
            },
            OpResult::Put | OpResult::Deleted(_) => result,
        }
    }

    fn strip_batch(&self, batch: WatchBatch) -> WatchBatch {
        let strip = |event| match event {
            Event::Put(kv) => Event::Put(self.strip_kv(kv)),
            Event::Delete { key, revision } => Event::Delete {
                key: self.strip(&key),
                revision,
            },
        };
        WatchBatch {
            revision: batch.revision,
            events: batch.events.into_iter().map(strip).collect(),
        }
    }
}

/// The sibling's name and the key in it, if a key is that of a sibling.
fn sibling(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = key.strip_prefix(b"@")?;
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    Some((&rest[..slash], &rest[slash + 1..]))
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    fn from_str(parts: &str) -> Result<Self, Self::Err> {
        if parts.split(':').any(|part| part.is_empty() || part.contains('/')) {
            return Err(NamespaceError {
                given: parts.to_owned(),
            });
        }
        Ok(Self {
            prefix: format!("{parts}/"),
            siblings: false,
        })
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prefix.trim_end_matches('/'))
    }
}

/// A store restricted to one namespace: adds the prefix to every key in transactions, reads and watches, and removes it
/// from every returned key. Leases have no namespace.
///
/// ```
/// # #[cfg(not(feature = "testing"))] fn main() {}
/// # #[cfg(feature = "testing")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use curator_store::Store;
/// use curator_store::memory::MemoryCluster;
/// use curator_store::namespace::Namespaced;
///
/// let cluster = MemoryCluster::new(1);
/// let store = Namespaced::new(cluster.client(0), "namespaced:jobs".parse()?);
/// assert_eq!(store.key_in_store(&"/leader".into()), "namespaced:jobs//leader");
/// // No key leaves it.
/// assert_eq!(store.key_in_store(&"@pki//CA".into()), "namespaced:jobs/@pki//CA");
/// # Ok(())
/// # }
/// ```
///
/// A name is checked when it is parsed, so a namespace is not made of any text:
///
/// ```compile_fail,E0308
/// # use curator_store::namespace::Namespaced;
/// # fn within(store: std::sync::Arc<dyn curator_store::Store>) {
/// let store = Namespaced::new(store, "namespaced:jobs");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Namespaced<S> {
    store: S,
    namespace: Namespace,
}

impl<S: Store> Namespaced<S> {
    /// Restricts `store` to `namespace`. No key leaves it.
    pub fn new(store: S, namespace: Namespace) -> Self {
        Self {
            store,
            namespace: Namespace {
                siblings: false,
                ..namespace
            },
        }
    }

    /// Restricts `store` to `namespace` and its siblings, the namespaces that differ in the last part alone: `@` and
    /// the name of a sibling before a key reach into it. In `namespaced:curator` the key `@etcd-pki//pki/CA-crl.der` is
    /// `namespaced:etcd-pki//pki/CA-crl.der` in the store, and is returned as it was asked for.
    ///
    /// A key that a caller can choose must not begin with `@` then.
    pub fn with_siblings(store: S, namespace: Namespace) -> Self {
        Self {
            store,
            namespace: Namespace {
                siblings: true,
                ..namespace
            },
        }
    }
}

#[async_trait]
impl<S: Store> Store for Namespaced<S> {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let mut answer = self.store.txn(self.namespace.add_to_txn(txn)).await?;
        answer.results = answer
            .results
            .into_iter()
            .map(|result| self.namespace.strip_result(result))
            .collect();
        Ok(answer)
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        let mut answer = self.store.range(self.namespace.add_to_range(range)).await?;
        answer.kvs = answer.kvs.into_iter().map(|kv| self.namespace.strip_kv(kv)).collect();
        Ok(answer)
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<RangeResult>, StoreError> {
        let ranges = ranges.into_iter().map(|range| self.namespace.add_to_range(range));
        let mut answers = self.store.ranges(ranges.collect()).await?;
        for answer in &mut answers {
            answer.kvs = std::mem::take(&mut answer.kvs)
                .into_iter()
                .map(|kv| self.namespace.strip_kv(kv))
                .collect();
        }
        Ok(answers)
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        let namespace = self.namespace.clone();
        let batches = self.store.watch(self.namespace.add_to(keys), from).await?;
        Ok(batches
            .map(move |batch| batch.map(|batch| namespace.strip_batch(batch)))
            .boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        self.store.keep_alive(lease, attempt).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        self.store.time_to_live(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }

    fn key_in_store(&self, key: &Bytes) -> Bytes {
        self.store.key_in_store(&self.namespace.add(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace() -> Namespace {
        "namespaced:curator".parse().unwrap()
    }

    #[test]
    fn the_prefix_is_the_parts_and_a_slash() {
        assert_eq!(
            hex(namespace().prefix()),
            "6e616d6573706163656 43a63757261746f722f".replace(' ', "")
        );
        assert_eq!("curator".parse::<Namespace>().unwrap().prefix(), "curator/");
        assert_eq!(Namespace::root().prefix(), "/");
        assert_eq!(namespace().to_string(), "namespaced:curator");
    }

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_is_no_namespace_says_what_is() {
        for bad in ["", ":", "a:", ":a", "a::b", "a/b", "a:b/"] {
            assert!(
                bad.parse::<Namespace>()
                    .unwrap_err()
                    .to_string()
                    .contains("namespaced:curator"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn every_key_of_a_transaction_is_prefixed() {
        let ops = || {
            vec![
                Op::get("/a"),
                Op::put("/b", "1"),
                Op::Delete(Keys::prefix("/c/")),
                Op::Range(Range::oldest(Keys::prefix("/leader/"))),
                Op::Txn(Txn::when(vec![Compare::absent("/d")]).then(vec![Op::get("/e")])),
            ]
        };
        let txn = Txn::when(vec![Compare::absent("/k")]).then(ops()).or_else(ops());
        let text = format!("{:?}", namespace().add_to_txn(txn));
        // One key in the compare; on each side two single keys, two ranges, which have two ends, and two nested keys.
        assert_eq!(text.matches("b\"namespaced:curator//").count(), 1 + 2 * 8, "{text}");
        assert!(!text.contains("b\"/"), "{text}");
        assert!(text.contains("namespaced:curator//leader0"), "{text}");
    }

    #[test]
    fn a_sibling_is_reached_and_its_keys_come_back_as_they_were_asked_for() {
        for (namespace, stored) in [
            ("namespaced:curator", "namespaced:etcd-pki//pki/CA-crl.der"),
            ("curator", "etcd-pki//pki/CA-crl.der"),
        ] {
            let mut namespace: Namespace = namespace.parse().unwrap();
            namespace.siblings = true;
            let key = Bytes::from("@etcd-pki//pki/CA-crl.der");
            assert_eq!(namespace.add(&key), stored);
            assert_eq!(namespace.strip(&namespace.add(&key)), key);
        }
        // An @ alone names nobody.
        let mut with_siblings = namespace();
        with_siblings.siblings = true;
        assert_eq!(with_siblings.add(b"@a"), "namespaced:curator/@a");
    }

    #[tokio::test]
    async fn key_leaves_the_namespace_only_if_that_was_asked_for() {
        let cluster = crate::memory::MemoryCluster::new(1);
        let put = || Txn::default().then(vec![Op::put("@other//secret", "1")]);
        let within = Namespaced::new(cluster.client(0), namespace());
        within.txn(put()).await.unwrap();
        let found = within.range(Range::all(Keys::one("@other//secret"))).await.unwrap();
        assert_eq!(found.kvs[0].key, "@other//secret");
        cluster.with_model(|model, _| {
            assert!(model.get(b"namespaced:curator/@other//secret").is_some());
            assert!(model.get(b"namespaced:other//secret").is_none());
        });
        Namespaced::with_siblings(cluster.client(0), namespace())
            .txn(put())
            .await
            .unwrap();
        assert!(cluster.with_model(|model, _| model.get(b"namespaced:other//secret").is_some()));
    }

    #[test]
    fn answers_and_events_lose_the_prefix() {
        let kv = KeyValue {
            key: "namespaced:curator//nodes/n".into(),
            value: "v".into(),
            create_revision: Revision(1),
            mod_revision: Revision(2),
            version: 2,
            lease: None,
        };
        let batch = WatchBatch {
            revision: Revision(3),
            events: vec![
                Event::Put(kv),
                Event::Delete {
                    key: "namespaced:curator//nodes/m".into(),
                    revision: Revision(3),
                },
            ],
        };
        let stripped = namespace().strip_batch(batch);
        assert!(matches!(&stripped.events[0], Event::Put(kv) if kv.key == "/nodes/n"));
        assert!(matches!(&stripped.events[1], Event::Delete { key, .. } if key == "/nodes/m"));
    }
}
