//! The durable store through crashes, damage, slow disks and many watchers.

#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt;
use futures::future::join_all;
use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend, TableDefinition};

use super::*;
use crate::{Event, Op};

const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A directory that is not there yet, and is gone in the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("curator-embedded-{}-{count}", std::process::id())))
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.0).unwrap()
    }

    fn refusal(&self) -> EmbeddedError {
        EmbeddedStore::open(&self.0).unwrap_err()
    }

    fn file(&self) -> PathBuf {
        self.0.join("curator.redb")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn put(key: impl Into<String>) -> Txn {
    Txn::default().then(vec![Op::put(key.into(), "v")])
}

async fn all(store: &EmbeddedStore) -> RangeResult {
    store.range(Range::all(Keys::prefix("/"))).await.unwrap()
}

async fn next(watch: &mut WatchStream) -> Option<Result<crate::WatchBatch, StoreError>> {
    tokio::time::timeout(CALL_TIMEOUT, watch.next()).await.unwrap()
}

/// A database whose commits fail from some point on.
#[derive(Debug)]
struct Failing {
    inner: InMemoryBackend,
    fails: Arc<AtomicBool>,
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is on fire"));
        }
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
}

fn failing() -> (EmbeddedStore, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let backend = Failing {
        inner: InMemoryBackend::new(),
        fails: fails.clone(),
    };
    let journal = Journal::new(Database::builder().create_with_backend(backend).unwrap());
    journal.initialize().unwrap();
    let Ok(stored) = journal.load() else {
        panic!("what was made can be read")
    };
    (
        EmbeddedStore::start("in memory".into(), journal, stored).unwrap(),
        fails,
    )
}

/// Keeps the thread busy until the sender is used or dropped.
async fn occupy(store: &EmbeddedStore) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let handle = store.handle.clone();
    tokio::spawn(async move {
        let busy = handle.call(move |_| {
            let _ = begin.send(());
            let _ = released.recv();
            Ok(())
        });
        busy.await
    });
    begun.await.unwrap();
    release
}

/// Waits until so many calls wait for the thread.
async fn queued(store: &EmbeddedStore, calls: usize) {
    while store.handle.jobs.capacity() > MAX_QUEUED_CALLS - calls {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn everything_but_the_history_outlives_the_process() {
    let dir = Dir::new();
    let store = dir.open();
    let ttl = Duration::from_secs(60);
    let (lease, other) = (store.grant(ttl).await.unwrap().id, store.grant(ttl).await.unwrap().id);
    let leased = |key: &'static str, lease| Op::Put {
        key: key.into(),
        value: "v".into(),
        lease: Some(lease),
    };
    store.txn(put("/a")).await.unwrap();
    store
        .txn(Txn::default().then(vec![leased("/b", lease), leased("/c", other)]))
        .await
        .unwrap();
    store.txn(put("/a")).await.unwrap();
    store.txn(put("/gone")).await.unwrap();
    store.txn(Txn::default().then(vec![Op::delete("/gone")])).await.unwrap();
    store.revoke(other).await.unwrap();
    let before = all(&store).await;
    drop(store);

    let store = dir.open();
    assert_eq!(all(&store).await, before);
    assert_eq!(before.kvs.len(), 2);
    assert_eq!(store.keep_alive(lease, 0).await.unwrap(), ttl);
    assert!(matches!(
        store.keep_alive(other, 0).await,
        Err(StoreError::LeaseNotFound { .. })
    ));
    assert!(matches!(
        store.watch(Keys::prefix("/"), before.revision).await.map(drop),
        Err(StoreError::Compacted { revision }) if revision == before.revision
    ));
    let mut watch = store.watch(Keys::prefix("/"), before.revision.next()).await.unwrap();
    store.revoke(lease).await.unwrap();
    let batch = next(&mut watch).await.unwrap().unwrap();
    assert_eq!(
        batch.events,
        [Event::Delete {
            key: "/b".into(),
            revision: before.revision.next()
        }]
    );
}

#[tokio::test]
async fn an_expiry_is_as_durable_as_a_write() {
    let dir = Dir::new();
    let store = dir.open();
    let lease = store.grant(Duration::from_secs(2)).await.unwrap().id;
    let op = Op::Put {
        key: "/a".into(),
        value: "v".into(),
        lease: Some(lease),
    };
    let put = store.txn(Txn::default().then(vec![op])).await.unwrap().revision;
    let mut watch = store.watch(Keys::one("/a"), Revision(0)).await.unwrap();
    next(&mut watch).await.unwrap().unwrap();
    store.close().unwrap();
    drop(store);
    let store = dir.open();
    let now = all(&store).await;
    assert!(now.kvs.is_empty() && now.revision == put.next());
    assert!(store.keep_alive(lease, 0).await.is_err());
}

#[tokio::test]
async fn a_renewal_that_waited_came_in_time() {
    let dir = Dir::new();
    let store = Arc::new(dir.open());
    let lease = store.grant(Duration::from_secs(2)).await.unwrap();
    let over = BootClock.now() + lease.ttl;
    let release = occupy(&store).await;
    let renewing = store.clone();
    let renewed = tokio::spawn(async move { renewing.keep_alive(lease.id, 0).await });
    queued(&store, 1).await;
    BootClock.sleep_until(over).await;
    drop(release);
    assert_eq!(renewed.await.unwrap().unwrap(), lease.ttl);
    store.revoke(lease.id).await.unwrap();
}

#[tokio::test]
async fn the_files_are_for_this_user_alone() {
    let dir = Dir::new();
    let nested = dir.0.join("a").join("b");
    let store = EmbeddedStore::open(&nested).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir.0), mode(&nested), mode(store.path())), (0o700, 0o700, 0o600));
    assert_eq!(fs::read_dir(&nested).unwrap().count(), 1);
}

#[test]
fn a_directory_that_others_may_change_is_refused() {
    let dir = Dir::new();
    drop(dir.open());
    for (path, mode, right) in [
        (dir.0.clone(), 0o777, 0o700),
        (dir.0.clone(), 0o1777, 0o700),
        (dir.file(), 0o620, 0o600),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let refusal = dir.refusal().to_string();
        assert!(refusal.contains(&format!("chmod go-w {}", path.display())), "{refusal}");
        fs::set_permissions(&path, fs::Permissions::from_mode(right)).unwrap();
    }
    // Only root can give files away.
    if rustix::process::geteuid().is_root() {
        for path in [dir.0.clone(), dir.file()] {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let refusal = dir.refusal().to_string();
            assert!(refusal.contains("65534") && refusal.contains("chown 0"), "{refusal}");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
    }
    drop(dir.open());
}

#[tokio::test]
async fn one_at_a_time_can_open_it() {
    let dir = Dir::new();
    let store = dir.open();
    let refusal = dir.refusal();
    assert!(
        matches!(&refusal, EmbeddedError::InUse { path } if *path == dir.file()),
        "{refusal}"
    );
    store.txn(put("/a")).await.unwrap();
    store.close().unwrap();
    let again = dir.open();
    assert_eq!(all(&again).await.kvs.len(), 1);
    // The first one is closed for good.
    store.close().unwrap();
    assert!(matches!(
        store.txn(put("/b")).await,
        Err(StoreError::Unreachable { .. })
    ));
}

#[test]
fn a_file_half_made_is_made_again() {
    let dir = Dir::new();
    fs::create_dir_all(&dir.0).unwrap();
    fs::write(dir.0.join("curator.redb.new"), [0; 4096]).unwrap();
    drop(dir.open());
    assert!(!dir.0.join("curator.redb.new").exists());
}

#[tokio::test]
async fn a_damaged_file_is_told() {
    let dir = Dir::new();
    let store = dir.open();
    for number in 0..100 {
        store.txn(put(format!("/{number}"))).await.unwrap();
    }
    drop(store);
    let whole = fs::read(dir.file()).unwrap();
    let refused = |content: &[u8]| {
        fs::write(dir.file(), content).unwrap();
        let refusal = dir.refusal();
        assert!(matches!(&refusal, EmbeddedError::Damaged { .. }), "{refusal:?}");
        assert!(
            refusal.to_string().contains(&*dir.file().to_string_lossy()),
            "{refusal}"
        );
    };
    refused(b"not a database at all");
    refused(&[]);
    refused(&whole[..whole.len() / 2]);
    let mut scribbled = whole.clone();
    for (position, byte) in scribbled.iter_mut().enumerate().skip(4096) {
        if position % 7 == 0 {
            *byte ^= 0x55;
        }
    }
    refused(&scribbled);
    fs::write(dir.file(), &whole).unwrap();
    assert_eq!(all(&dir.open()).await.kvs.len(), 100);
}

#[test]
fn another_format_is_told() {
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    const OTHER: TableDefinition<'_, u8, u8> = TableDefinition::new("other");
    let dir = Dir::new();
    drop(dir.open());
    let database = Database::open(dir.file()).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(META).unwrap().insert("format", 99).unwrap();
    writing.commit().unwrap();
    drop(database);
    let refusal = dir.refusal();
    assert!(
        matches!(&refusal, EmbeddedError::Format { found, expected: 1, .. } if found == "99"),
        "{refusal}"
    );
    // A database of somebody else's.
    fs::remove_file(dir.file()).unwrap();
    let database = Database::create(dir.file()).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(OTHER).unwrap();
    writing.commit().unwrap();
    drop(database);
    let refusal = dir.refusal();
    assert!(matches!(&refusal, EmbeddedError::Format { .. }), "{refusal}");
}

#[tokio::test]
async fn writers_at_once_share_a_commit() {
    const WRITERS: usize = 64;
    let dir = Dir::new();
    let store = Arc::new(dir.open());
    let release = occupy(&store).await;
    let writers = (0..WRITERS).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { store.txn(put(format!("/{number}"))).await })
    });
    let writers: Vec<_> = writers.collect();
    queued(&store, WRITERS).await;
    drop(release);
    let mut revisions: Vec<i64> = Vec::new();
    for written in join_all(writers).await {
        revisions.push(written.unwrap().unwrap().revision.0);
    }
    assert_eq!(store.commits(), 1);
    // Each has a revision of its own all the same.
    revisions.sort_unstable();
    assert_eq!(revisions, (2..2 + 64).collect::<Vec<i64>>());
    // Nothing changed, so nothing is committed.
    all(&store).await;
    store.txn(Txn::default().then(vec![Op::delete("/none")])).await.unwrap();
    assert_eq!(store.commits(), 1);
}

#[tokio::test]
async fn a_failed_commit_stops_the_store() {
    let (store, fails) = failing();
    let store = Arc::new(store);
    store.txn(put("/a")).await.unwrap();
    let mut watch = store.watch(Keys::prefix("/"), Revision(0)).await.unwrap();
    let release = occupy(&store).await;
    fails.store(true, Ordering::SeqCst);
    // The read waits for the same commit, and would tell what is not on disk.
    let (writer, reader) = (store.clone(), store.clone());
    let written = tokio::spawn(async move { writer.txn(put("/b")).await.map(drop) });
    queued(&store, 1).await;
    let read = tokio::spawn(async move { reader.range(Range::all(Keys::one("/b"))).await.map(drop) });
    queued(&store, 2).await;
    drop(release);
    for told in [written.await.unwrap(), read.await.unwrap()] {
        assert!(matches!(told, Err(StoreError::Unknown { .. })), "{told:?}");
    }
    let later = store.range(Range::all(Keys::one("/a"))).await.unwrap_err();
    assert!(
        matches!(&later, StoreError::Unreachable { reason } if reason.contains("fire")),
        "{later}"
    );
    // The watch never hears of what was not committed.
    let told = next(&mut watch).await.unwrap();
    assert!(matches!(&told, Err(StoreError::Unreachable { .. })), "{told:?}");
    assert!(next(&mut watch).await.is_none());
    let why = store.stopped().await;
    assert!(why.contains("fire"), "{why}");
    assert!(matches!(store.close(), Err(EmbeddedError::Stopped { .. })));
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_within_a_bound() {
    let dir = Dir::new();
    let store = dir.open();
    let mut watch = store.watch(Keys::prefix("/"), Revision(0)).await.unwrap();
    let release = occupy(&store).await;
    // From here on, time passes as soon as everybody waits.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let told = join_all((0..=MAX_QUEUED_CALLS).map(|_| store.txn(put("/a")))).await;
    let waited = |told: &&Result<TxnResult, StoreError>| matches!(told, Err(StoreError::Unknown { .. }));
    assert_eq!(told.iter().filter(waited).count(), MAX_QUEUED_CALLS);
    // There was no place for the last one.
    assert!(
        matches!(told[MAX_QUEUED_CALLS], Err(StoreError::Unreachable { .. })),
        "{:?}",
        told[MAX_QUEUED_CALLS]
    );
    assert!(matches!(
        next(&mut watch).await,
        Some(Err(StoreError::Unreachable { .. }))
    ));
    assert!(begun.elapsed() <= Duration::from_secs(10 + 11));
    drop(release);
}

#[tokio::test]
async fn closing_ends_calls_and_watches() {
    let dir = Dir::new();
    let store = dir.open();
    let mut watch = store.watch(Keys::prefix("/"), Revision(0)).await.unwrap();
    store.close().unwrap();
    assert!(matches!(
        next(&mut watch).await,
        Some(Err(StoreError::Unreachable { .. }))
    ));
    assert!(next(&mut watch).await.is_none());
    let refused = store.grant(Duration::from_secs(5)).await.unwrap_err();
    assert!(
        refused.never_ran() && refused.to_string().contains("closed"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_panic_in_the_thread_is_told() {
    let dir = Dir::new();
    let store = dir.open();
    let told = store
        .handle
        .call(|_| -> Result<(), StoreError> { panic!("a mistake") })
        .await;
    assert!(matches!(told, Err(StoreError::Unknown { .. })), "{told:?}");
    assert!(matches!(store.close(), Err(EmbeddedError::Stopped { .. })));
    assert!(matches!(
        store.txn(put("/a")).await,
        Err(StoreError::Unreachable { .. })
    ));
    // What was answered is there.
    drop(dir.open());
}

#[tokio::test]
async fn history_is_bounded_and_only_a_slow_watch_notices() {
    let dir = Dir::new();
    let store = Arc::new(dir.open());
    let first = store.txn(put("/a")).await.unwrap().revision;
    let mut slow = store.watch(Keys::prefix("/"), first).await.unwrap();
    let mut quiet = store.watch(Keys::one("/quiet"), Revision(0)).await.unwrap();
    let waiting = tokio::spawn(async move { next(&mut quiet).await });
    for _ in 0..11 {
        let writers = join_all((0..1_000).map(|_| store.txn(put("/a")))).await;
        assert!(writers.iter().all(Result::is_ok));
        // The quiet watch gets its turns, as it does in a service that is not one loop of writes.
        tokio::task::yield_now().await;
    }
    let kept = store
        .handle
        .call(|state| Ok(state.model.keys_changed_after(Revision(0)).len()))
        .await;
    assert_eq!(kept.unwrap(), 1);
    let put = store.txn(put("/quiet")).await.unwrap().revision;
    let batch = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(batch.revision, put);
    assert!(matches!(next(&mut slow).await, Some(Err(StoreError::Compacted { .. }))));
    let past = Range {
        revision: first,
        ..Range::all(Keys::one("/a"))
    };
    assert!(matches!(store.range(past).await, Err(StoreError::Compacted { .. })));
}
