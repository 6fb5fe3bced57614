//! The state of a service that an embedder adds to the leader: its own keys, fenced by the term.

use bytes::Bytes;
use curator_election::store::{Compare, KeyValue, Keys, Op, Range, Revision};
use curator_listener::LeaderServicesError;

use crate::state::keys::EMBEDDED;
use curator_election::fence::{Fenced, FencedError, Written};

/// The name of a state cannot be part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid state name {name:?}: it must have 1 to 255 bytes and contain no slash or control character")]
pub struct InvalidStateName {
    name: String,
}

impl From<InvalidStateName> for LeaderServicesError {
    fn from(invalid: InvalidStateName) -> Self {
        Self::new("the name of a leader service's state is invalid").caused_by(invalid)
    }
}

/// Keys and values of a service that an embedder adds to the leader. They are in the cluster's store under
/// `/embedded/<name>/`, which the Curator itself does not use, and are exported and imported with the cluster's state.
///
/// Every access belongs to one term and is fenced by it: once another instance leads, it fails with
/// [`FencedError::LostLeadership`] and has no effect, even if this instance has not noticed yet.
#[derive(Clone)]
pub struct TermState {
    fenced: Fenced,
    prefix: Bytes,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The key, without the prefix of the state.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The store's revision at which the value was written.
    pub revision: Revision,
}

/// A change of several keys, which is made completely or not at all.
#[derive(Clone, Debug, Default)]
pub struct StateChange {
    conditions: Vec<(Bytes, Option<Revision>)>,
    writes: Vec<(Bytes, Option<Bytes>)>,
}

impl StateChange {
    /// A change without conditions that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the condition that a key has the value that was written at this [revision](StateEntry::revision).
    #[must_use]
    pub fn if_unchanged(mut self, key: impl Into<Bytes>, revision: Revision) -> Self {
        self.conditions.push((key.into(), Some(revision)));
        self
    }

    /// Adds the condition that a key does not exist.
    #[must_use]
    pub fn if_absent(mut self, key: impl Into<Bytes>) -> Self {
        self.conditions.push((key.into(), None));
        self
    }

    /// Writes a value.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.writes.push((key.into(), Some(value.into())));
        self
    }

    /// Deletes a key. It need not exist.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.writes.push((key.into(), None));
        self
    }
}

impl TermState {
    pub(crate) fn new(fenced: Fenced, name: &str) -> Result<Self, InvalidStateName> {
        let prefix = EMBEDDED.key(name).map_err(|_| InvalidStateName {
            name: name.chars().take(255).collect(),
        })?;
        Ok(Self {
            fenced,
            prefix: [&prefix[..], b"/"].concat().into(),
        })
    }

    fn full(&self, key: &[u8]) -> Bytes {
        [&self.prefix[..], key].concat().into()
    }

    fn entry(&self, found: KeyValue) -> StateEntry {
        StateEntry {
            key: found.key.slice(self.prefix.len().min(found.key.len())..),
            value: found.value,
            revision: found.mod_revision,
        }
    }

    /// Reads a key; `None` if it does not exist. The read sees every write that was acknowledged before it began.
    ///
    /// Cancellation safe.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<StateEntry>, FencedError> {
        let range = Range::all(Keys::One(self.full(key.as_ref())));
        let read = self.fenced.read(vec![range]).await?;
        Ok(read.ranges.into_iter().flatten().next().map(|found| self.entry(found)))
    }

    /// Reads all keys that begin with `prefix`, page by page and in order, as of one revision of the store.
    ///
    /// Cancellation safe, except for the visited entries.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer, or has compacted the revision meanwhile: the entries visited
    /// so far are incomplete.
    pub async fn list(
        &self,
        prefix: impl AsRef<[u8]> + Send,
        mut visit: impl FnMut(StateEntry) + Send,
    ) -> Result<Revision, FencedError> {
        let keys = Keys::prefix(self.full(prefix.as_ref()));
        let visit = |page: Vec<KeyValue>| page.into_iter().for_each(|found| visit(self.entry(found)));
        self.fenced.read_pages([keys], visit).await
    }

    /// Makes a change if its conditions hold, otherwise nothing ([`Written::Conflict`]).
    ///
    /// Cancellation: the change may or may not be made.
    ///
    /// # Errors
    /// The term has ended, or the store does not answer. After `StoreError::Unknown` the change may have been made.
    pub async fn write(&self, change: StateChange) -> Result<Written, FencedError> {
        let conditions = change.conditions.into_iter().map(|(key, revision)| match revision {
            Some(revision) => Compare::changed_at(self.full(&key), revision),
            None => Compare::absent(self.full(&key)),
        });
        let ops = change.writes.into_iter().map(|(key, value)| match value {
            Some(value) => Op::put(self.full(&key), value),
            None => Op::delete(self.full(&key)),
        });
        self.fenced.write(conditions.collect(), ops.collect()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use curator_election::clock::{Clock, TokioClock};
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{Store, Txn};
    use curator_election::{Term, TermOwner};

    use super::*;

    const LOCK: &str = "/leader/1";

    struct Fixture {
        store: Arc<dyn Store>,
        fenced: Fenced,
        _term_owner: TermOwner,
    }

    impl Fixture {
        async fn new() -> Self {
            let store: Arc<dyn Store> = Arc::new(MemoryCluster::new(1).client(0));
            let lock = Txn::default().then(vec![Op::put(LOCK, "me")]);
            let revision = store.txn(lock).await.expect("no faults").revision;
            let clock = Arc::new(TokioClock::new());
            let until = clock.now() + Duration::from_secs(600);
            let (_term_owner, term) = Term::for_test(LOCK, revision, until, clock);
            Self {
                fenced: Fenced::new(store.clone(), term),
                store,
                _term_owner,
            }
        }

        fn state(&self, name: &str) -> TermState {
            TermState::new(self.fenced.clone(), name).expect("a valid name")
        }

        async fn stored(&self, key: &'static str) -> Option<Bytes> {
            let read = self.store.range(Range::all(Keys::one(key))).await.expect("no faults");
            read.kvs.into_iter().next().map(|found| found.value)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn state_reads_what_it_has_written_below_its_own_prefix() {
        let fixture = Fixture::new().await;
        let (counters, others) = (fixture.state("counters"), fixture.state("counter"));
        let done = counters
            .write(StateChange::new().put("a", "1").put("b", "2"))
            .await
            .expect("written");
        assert!(matches!(done, Written::Done(_)), "{done:?}");
        let _ = others
            .write(StateChange::new().put("s/a", "other"))
            .await
            .expect("written");
        assert_eq!(fixture.stored("/embedded/counters/a").await.as_deref(), Some(&b"1"[..]));

        let a = counters.get("a").await.expect("read").expect("there");
        assert_eq!((&a.key[..], &a.value[..]), (&b"a"[..], &b"1"[..]));
        assert_eq!(counters.get("c").await.expect("read"), None);
        let mut listed = Vec::new();
        counters.list("", |entry| listed.push(entry.key)).await.expect("read");
        assert_eq!(listed, ["a", "b"], "nothing of another state");
    }

    #[tokio::test(start_paused = true)]
    async fn change_is_made_only_if_its_conditions_hold() {
        let fixture = Fixture::new().await;
        let state = fixture.state("counters");
        let first = StateChange::new().if_absent("a").put("a", "1");
        assert!(matches!(
            state.write(first.clone()).await.expect("written"),
            Written::Done(_)
        ));
        assert_eq!(state.write(first).await.expect("answered"), Written::Conflict);
        let read = state.get("a").await.expect("read").expect("there");
        let next = |value: &'static str| StateChange::new().if_unchanged("a", read.revision).put("a", value);
        assert!(matches!(
            state.write(next("2")).await.expect("written"),
            Written::Done(_)
        ));
        assert_eq!(state.write(next("3")).await.expect("answered"), Written::Conflict);
        let _ = state.write(StateChange::new().delete("a")).await.expect("written");
        assert_eq!(state.get("a").await.expect("read"), None);
    }

    /// Another instance leads, and this one has not noticed.
    #[tokio::test(start_paused = true)]
    async fn state_of_lost_term_can_neither_be_read_nor_written() {
        let fixture = Fixture::new().await;
        let state = fixture.state("counters");
        let _ = state.write(StateChange::new().put("a", "1")).await.expect("written");
        let gone = Txn::default().then(vec![Op::delete(LOCK)]);
        fixture.store.txn(gone).await.expect("no faults");
        let refused = state
            .write(StateChange::new().put("a", "2"))
            .await
            .expect_err("fenced out");
        assert!(matches!(refused, FencedError::LostLeadership), "{refused}");
        assert_eq!(fixture.stored("/embedded/counters/a").await.as_deref(), Some(&b"1"[..]));
        assert!(matches!(state.get("a").await, Err(FencedError::LostLeadership)));
    }

    #[tokio::test(start_paused = true)]
    async fn name_with_slash_is_refused() {
        let fixture = Fixture::new().await;
        for name in ["", "a/b", "../nodes", "a\nb"] {
            let refused = TermState::new(fixture.fenced.clone(), name).err().expect("invalid");
            assert!(refused.to_string().contains("invalid state name"), "{refused}");
        }
    }
}
