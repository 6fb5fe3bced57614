//! Callers that fence their writes, with the right guard and with a wrong one, on the model of etcd.

#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use curator_election::clock::{SharedClock, TokioClock};
use curator_election::fence::FencedError;
use curator_election::memory::{MemoryClient, MemoryCluster};
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::store::{
    Keys, Lease, LeaseId, Op, Range, RangeResult, Revision, Store, StoreError, Txn, TxnResult, WatchStream,
};
use curator_election::{
    ElectionStatus, Elector, ElectorConfig, ElectorHandle, Fenced, PlainText, Reason, StoreElection, Term, TermOwner,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const TTL: Duration = Duration::from_secs(6);

fn namespace() -> Namespace {
    "jobs".parse().unwrap()
}

fn elect(cluster: &MemoryCluster) -> (ElectorHandle<PlainText>, CancellationToken, JoinHandle<()>) {
    let store = Arc::new(Namespaced::new(cluster.client(0), namespace()));
    let backend = Arc::new(StoreElection::new(store, "/leader", TTL / 3));
    let config = ElectorConfig {
        ttl: TTL,
        clock: Arc::new(TokioClock::new()),
        seed: Some(1),
        ..ElectorConfig::default()
    };
    let elector = Elector::new(backend, &PlainText("node-1".into()), config).unwrap();
    let (handle, cancel) = (elector.handle(), CancellationToken::new());
    let running = tokio::spawn(elector.run(cancel.clone()));
    (handle, cancel, running)
}

async fn next_term(handle: &ElectorHandle<PlainText>) -> Term {
    let mut status = handle.status();
    let status = status.wait_for(|status| status.valid_term().is_some()).await.unwrap();
    status.valid_term().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn term_that_its_own_caller_fences_out_backs_off_and_says_why() {
    let cluster = MemoryCluster::new(1);
    let (handle, cancel, running) = elect(&cluster);
    // The caller's store lacks the namespace.
    let store: Arc<dyn Store> = Arc::new(cluster.client(0));
    let began = tokio::time::Instant::now();
    let mut terms = 0;
    while began.elapsed() < Duration::from_secs(60) {
        let fenced = Fenced::new(store.clone(), next_term(&handle).await);
        terms += 1;
        fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await.unwrap_err();
    }
    assert!((8..=24).contains(&terms), "{terms} terms in a minute");
    let mut status = handle.status();
    let told = |status: &ElectionStatus<PlainText>| matches!(status, ElectionStatus::Undetermined(Reason::FencedOutRepeatedly { terms }) if *terms >= 3);
    let status = status.wait_for(told).await.unwrap().clone();
    let ElectionStatus::Undetermined(reason) = status else {
        unreachable!()
    };
    assert!(reason.to_string().contains("namespace"), "{reason}");

    // With the right guard the next term lasts, and the one after it follows without a pause.
    let term = next_term(&handle).await;
    let guarded = Txn::when(vec![term.guard_in_store()]).then(vec![Op::put("/a", "1")]);
    for _ in 0..4 {
        assert!(store.txn(guarded.clone()).await.unwrap().succeeded);
        tokio::time::sleep(TTL / 2).await;
    }
    assert!(term.is_valid());
    let fenced = tokio::time::Instant::now();
    term.report_fenced_out();
    next_term(&handle).await;
    assert!(fenced.elapsed() < Duration::from_millis(500), "{:?}", fenced.elapsed());
    cancel.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn term_names_its_lock_key_as_the_store_has_it() {
    let cluster = MemoryCluster::new(1);
    let (handle, cancel, running) = elect(&cluster);
    let term = next_term(&handle).await;
    assert!(term.lock_key().starts_with(b"/leader/"), "{term:?}");
    assert_eq!(*term.key_in_store(), [b"jobs/", &term.lock_key()[..]].concat());
    assert!(cluster.with_model(|model, _| model.get(term.key_in_store()).is_some()));
    cancel.cancel();
    running.await.unwrap();
}

/// A store that answers transactions with these errors first, and counts them.
struct Failing {
    inner: MemoryClient,
    errors: Mutex<Vec<StoreError>>,
    sent: AtomicUsize,
}

#[async_trait]
impl Store for Failing {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = self.errors.lock().unwrap().pop() {
            return Err(error);
        }
        self.inner.txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.inner.range(range).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(keys, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        self.inner.keep_alive(lease, attempt).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }
}

fn unknown() -> StoreError {
    StoreError::Unknown {
        reason: "a test".into(),
    }
}

fn unreachable() -> StoreError {
    StoreError::Unreachable {
        reason: "a test".into(),
    }
}

/// The state of a term in a store that fails with these errors, the last one first.
async fn failing(errors: Vec<StoreError>) -> (Arc<Failing>, Fenced, TermOwner, SharedClock) {
    let store = Arc::new(Failing {
        inner: MemoryCluster::new(1).client(0),
        errors: Mutex::default(),
        sent: AtomicUsize::new(0),
    });
    let queued = Txn::default().then(vec![Op::put("/leader/a", "me")]);
    let revision = store.txn(queued).await.unwrap().revision;
    *store.errors.lock().unwrap() = errors;
    store.sent.store(0, Ordering::Relaxed);
    let clock: SharedClock = Arc::new(TokioClock::new());
    let until = clock.now() + Duration::from_secs(3_600);
    let (owner, term) = Term::for_test("/leader/a", revision, until, clock.clone());
    (store.clone(), Fenced::new(store, term), owner, clock)
}

async fn read(fenced: &Fenced) -> Result<(), FencedError> {
    fenced.read(vec![Range::all(Keys::one("/a"))]).await.map(drop)
}

async fn write(fenced: &Fenced) -> Result<(), FencedError> {
    fenced.write(Vec::new(), vec![Op::put("/a", "1")]).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn write_whose_outcome_is_unknown_is_not_sent_again() {
    let (store, fenced, owner, clock) = failing(vec![unknown()]).await;
    assert!(owner.confirm(clock.now() + Duration::from_secs(1)));
    let error = write(&fenced).await.unwrap_err();
    assert!(
        matches!(error, FencedError::Store(StoreError::Unknown { .. })),
        "{error}"
    );
    assert_eq!(store.sent.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn read_and_a_write_that_provably_did_nothing_are_sent_again_in_a_term_with_a_failover_limit() {
    for writes in [true, false] {
        let (store, fenced, owner, clock) = failing(vec![unreachable(), unreachable()]).await;
        assert!(owner.confirm(clock.now() + Duration::from_secs(1)));
        let done = if writes {
            write(&fenced).await
        } else {
            read(&fenced).await
        };
        done.unwrap();
        assert_eq!(store.sent.load(Ordering::Relaxed), 3);
    }
    let (store, fenced, owner, clock) = failing(vec![unknown()]).await;
    assert!(owner.confirm(clock.now() + Duration::from_secs(1)));
    read(&fenced).await.unwrap();
    assert_eq!(store.sent.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn access_waits_while_the_term_is_suspended() {
    let (store, fenced, owner, clock) = failing(vec![unreachable()]).await;
    assert!(owner.confirm(clock.now() + Duration::from_millis(10)));
    let mut reading = tokio::spawn(async move { read(&fenced).await });
    let early = tokio::time::timeout(Duration::from_secs(5), &mut reading).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(store.sent.load(Ordering::Relaxed), 1);
    assert!(owner.confirm(clock.now() + Duration::from_secs(1)));
    reading.await.unwrap().unwrap();
    assert_eq!(store.sent.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn access_fails_at_once_without_a_failover_limit_and_soon_if_the_store_confirms_and_does_not_answer() {
    let (store, fenced, _owner, _) = failing(vec![unreachable()]).await;
    read(&fenced).await.unwrap_err();
    assert_eq!(store.sent.load(Ordering::Relaxed), 1);

    let (_, fenced, owner, clock) = failing(vec![unreachable(); 1_000]).await;
    assert!(owner.confirm(clock.now() + Duration::from_secs(60)));
    let began = tokio::time::Instant::now();
    let reading = tokio::spawn(async move { read(&fenced).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(owner.confirm(clock.now() + Duration::from_secs(60)));
    reading.await.unwrap().unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(1_200), "{:?}", began.elapsed());
}

/// Without answers a term with a long limit is suspended much later.
#[tokio::test(start_paused = true)]
async fn access_is_tried_again_until_the_term_is_confirmed_or_suspended() {
    let (_, fenced, owner, clock) = failing(vec![unreachable(); 100]).await;
    assert!(owner.confirm(clock.now() + Duration::from_secs(60)));
    read(&fenced).await.unwrap();
}
