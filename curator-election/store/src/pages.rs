//! Reads many keys at one revision, page by page.
//!
//! etcd returns a range in one message and within one deadline, and limits a response by the number of keys only. So a
//! large range is read in pages whose number of keys is derived from the size of earlier pages. The first page
//! determines the revision, and all others are read at it. If that revision is compacted meanwhile, start again.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{KeyValue, Keys, Range, RefusalKind, Revision, Store, StoreError};

/// The target size of a page in bytes of keys and values: far below the limits of etcd and its clients, but large
/// enough to amortize a round trip.
const PAGE: usize = 4 << 20;
/// The number of keys of the first page: within 64 MiB even with the largest values that etcd accepts by default.
const FIRST: usize = 32;
/// The maximum number of keys of a page.
const MOST: usize = 10_000;
/// The maximum growth factor from one page to the next.
const GROWTH: usize = 8;

/// The pages of a list of ranges. Pure; no I/O.
///
/// ```
/// # use curator_store::pages::Pages;
/// # use curator_store::{Keys, Revision};
/// let mut pages = Pages::new([Keys::prefix("/nodes/")]);
/// let first = pages.next().expect("nothing has been read yet");
/// assert_eq!(first.revision, Revision(0));
/// pages.answered(Revision(7), &[]);
/// assert!(pages.next().is_none());
/// assert_eq!(pages.revision(), Revision(7));
/// ```
#[derive(Clone, Debug)]
pub struct Pages {
    ranges: VecDeque<Keys>,
    revision: Revision,
    limit: usize,
}

impl Pages {
    /// The pages of these ranges, in sequence, each in key order.
    pub fn new(ranges: impl IntoIterator<Item = Keys>) -> Self {
        Self {
            ranges: ranges.into_iter().collect(),
            revision: Revision(0),
            limit: FIRST,
        }
    }

    /// Reads at this revision; 0 for that of the first response.
    #[must_use]
    pub const fn at(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }

    /// The revision of the read; 0 before the first response.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The next page to read; `None` when all ranges are read.
    #[must_use]
    pub fn next(&self) -> Option<Range> {
        Some(Range {
            limit: self.limit,
            revision: self.revision,
            ..Range::all(self.ranges.front()?.clone())
        })
    }

    /// Records the response to [`next`](Self::next) and its store revision.
    pub fn answered(&mut self, revision: Revision, kvs: &[KeyValue]) {
        if self.revision == Revision(0) {
            self.revision = revision;
        }
        let full = kvs.len() >= self.limit;
        match (self.ranges.front_mut(), kvs.last()) {
            (Some(Keys::Range { start, .. }), Some(last)) if full => *start = after(&last.key),
            _ => drop(self.ranges.pop_front()),
        }
        if full {
            let size: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            let fits = PAGE / (size / kvs.len().max(1)).max(1);
            self.limit = fits.clamp(1, MOST).min(self.limit * GROWTH);
        }
    }

    /// Records that the response to [`next`](Self::next) was too large. Returns whether a smaller page is possible: a
    /// page of one key is not divisible.
    #[must_use]
    pub fn too_large(&mut self) -> bool {
        let divides = self.limit > 1;
        self.limit = (self.limit / GROWTH).max(1);
        divides
    }
}

/// The key directly after this one.
fn after(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Reads all of these ranges at one revision, passes each page to `visit`, and returns the revision. Uses as many calls
/// to the store as necessary, each within the store's own bound.
///
/// Cancellation safe, except for pages already visited.
///
/// # Errors
/// If a call fails; [`StoreError::Compacted`] if the revision is compacted meanwhile. Some pages may have been visited.
pub async fn read<E: From<StoreError>>(
    store: &(impl Store + ?Sized),
    ranges: impl IntoIterator<Item = Keys>,
    mut visit: impl FnMut(Vec<KeyValue>) -> Result<(), E>,
) -> Result<Revision, E> {
    let mut pages = Pages::new(ranges);
    while let Some(page) = pages.next() {
        match store.range(page).await {
            Ok(read) => {
                pages.answered(read.revision, &read.kvs);
                visit(read.kvs)?;
            }
            Err(error) if error.refusal() == Some(RefusalKind::TooLarge) && pages.too_large() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(pages.revision())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::memory::{MemoryClient, MemoryCluster};
    use crate::{Lease, LeaseId, Op, RangeResult, Txn, TxnResult, WatchStream};

    /// A store whose answers must not be larger than a number of bytes, and that counts them.
    struct Small {
        store: MemoryClient,
        limit: usize,
        answers: AtomicUsize,
        largest: AtomicUsize,
    }

    #[async_trait]
    impl Store for Small {
        async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
            self.store.txn(txn).await
        }

        async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
            let read = self.store.range(range).await?;
            let size: usize = read.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            if size > self.limit {
                return Err(StoreError::Refused {
                    kind: RefusalKind::TooLarge,
                    reason: "too large".into(),
                });
            }
            self.answers.fetch_add(1, Ordering::Relaxed);
            self.largest.fetch_max(size, Ordering::Relaxed);
            Ok(read)
        }

        async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
            self.store.watch(keys, from).await
        }

        async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
            self.store.grant(ttl).await
        }

        async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
            self.store.keep_alive(lease, attempt).await
        }

        async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
            self.store.revoke(lease).await
        }
    }

    fn small(cluster: &MemoryCluster, limit: usize) -> Small {
        Small {
            store: cluster.client(0),
            limit,
            answers: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
        }
    }

    fn put(cluster: &MemoryCluster, key: String, size: usize) {
        cluster
            .with_model(|model, _| model.txn(&Txn::default().then(vec![Op::put(key, vec![0; size])])))
            .expect("no faults");
    }

    fn names(kvs: &[KeyValue]) -> Vec<String> {
        let name = |kv: &KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
        kvs.iter().map(name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn all_keys_of_all_ranges_are_read_once_and_in_order() {
        let cluster = MemoryCluster::new(1);
        for number in 0..1_000 {
            put(&cluster, format!("/a/{number:04}"), 10);
            put(&cluster, format!("/c/{number:04}"), 10);
        }
        put(&cluster, "/b/1".into(), 10);
        let store = small(&cluster, usize::MAX);
        let mut found = Vec::new();
        let ranges = ["/c/", "/none/", "/a/"].map(Keys::prefix);
        read(&store, ranges, |page| {
            found.extend(page);
            Ok::<_, StoreError>(())
        })
        .await
        .expect("no faults");
        let expected = |prefix: &str| {
            (0..1_000)
                .map(|number| format!("/{prefix}/{number:04}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&found), [expected("c"), expected("a")].concat());
        // 32, 256, 712; then the empty one, and the last one at once.
        assert_eq!(store.answers.load(Ordering::Relaxed), 5);
    }

    /// What is changed between two pages is not seen, be it before or behind where the reading is.
    #[tokio::test(start_paused = true)]
    async fn everything_is_of_one_revision() {
        let cluster = MemoryCluster::new(1);
        for number in 0..100 {
            put(&cluster, format!("/a/{number:04}"), 10);
        }
        let before = cluster.with_model(|model, _| model.revision());
        let mut found = Vec::new();
        let at = read(&cluster.client(0), [Keys::prefix("/a/")], |page| {
            for key in ["/a/0000", "/a/0099", "/a/new"] {
                put(&cluster, key.into(), 20);
            }
            found.extend(page);
            Ok::<_, StoreError>(())
        })
        .await
        .expect("no faults");
        assert_eq!(at, before);
        assert_eq!(found.len(), 100);
        assert!(found.iter().all(|kv| kv.value.len() == 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_that_is_known_is_read() {
        let cluster = MemoryCluster::new(1);
        put(&cluster, "/a/1".into(), 10);
        let before = cluster.with_model(|model, _| model.revision());
        put(&cluster, "/a/2".into(), 10);
        let pages = Pages::new([Keys::prefix("/a/")]).at(before);
        let read = cluster.client(0).range(pages.next().expect("a page")).await;
        assert_eq!(names(&read.expect("no faults").kvs), ["/a/1"]);
    }

    /// 40 MB, of values that are all over the place, through answers of 8 MiB.
    #[tokio::test(start_paused = true)]
    async fn pages_follow_the_size_of_values() {
        let cluster = MemoryCluster::new(1);
        for number in 0..2_000 {
            put(&cluster, format!("/a/{number:04}"), 10);
        }
        for number in 2_000..2_040 {
            put(&cluster, format!("/a/{number:04}"), 1_000_000);
        }
        let store = small(&cluster, 8 << 20);
        let mut count = 0;
        read(&store, [Keys::prefix("/a/")], |page| {
            count += page.len();
            Ok::<_, StoreError>(())
        })
        .await
        .expect("no faults");
        assert_eq!(count, 2_040);
        let answers = store.answers.load(Ordering::Relaxed);
        assert!(answers < 30, "{answers}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_that_is_too_large_is_an_error() {
        let cluster = MemoryCluster::new(1);
        put(&cluster, "/a/1".into(), 1_000);
        let store = small(&cluster, 100);
        let error = read(&store, [Keys::prefix("/a/")], |_| Ok::<_, StoreError>(())).await;
        assert_eq!(
            error.expect_err("it does not fit").refusal(),
            Some(RefusalKind::TooLarge)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn compaction_in_between_is_told() {
        let cluster = MemoryCluster::new(1);
        for number in 0..100 {
            put(&cluster, format!("/a/{number:04}"), 10);
        }
        let error = read(&cluster.client(0), [Keys::prefix("/a/")], |_| {
            put(&cluster, "/b".into(), 1);
            cluster.with_model(|model, _| model.compact(model.revision()))
        })
        .await;
        assert!(matches!(error, Err(StoreError::Compacted { .. })), "{error:?}");
    }
}
