//! Tests of the state: shared fences and transactions, fencing, and failures of the store.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use curator_election::clock::{Clock, TokioClock};
use curator_election::memory::{Faults, Link, MemoryClient, MemoryCluster};
use curator_election::store::{
    Lease, LeaseId, RangeResult, RefusalKind, Store, StoreError, Txn, TxnResult, WatchStream,
};
use curator_election::{Term, TermOwner};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::state::*;

/// A store that counts executed transactions and reads, and whose replies can be delayed.
#[derive(Clone)]
struct Counting {
    store: MemoryClient,
    accesses: Arc<AtomicUsize>,
    answers: watch::Receiver<bool>,
    /// Whether it refuses all writing transactions as overloaded.
    overloaded: Arc<AtomicBool>,
}

impl Counting {
    async fn answer<T>(&self, answer: T) -> T {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let _ = self.answers.clone().wait_for(|answers| *answers).await;
        answer
    }
}

#[async_trait]
impl Store for Counting {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        if self.overloaded.load(Ordering::Relaxed) && txn.success.iter().any(|op| !matches!(op, Op::Range(_))) {
            return self
                .answer(Err(StoreError::Refused {
                    kind: RefusalKind::Overloaded,
                    reason: "etcdserver: too many requests".into(),
                }))
                .await;
        }
        let done = self.store.txn(txn).await;
        self.answer(done).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        let found = self.store.range(range).await;
        self.answer(found).await
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

const LOCK: &str = "/leader/1";

struct Stage {
    cluster: MemoryCluster,
    /// A connection to the store without faults.
    other: MemoryClient,
    state: Arc<State>,
    accesses: Arc<AtomicUsize>,
    answers: watch::Sender<bool>,
    overloaded: Arc<AtomicBool>,
    running: JoinHandle<()>,
    _term_owner: TermOwner,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Stage {
    async fn new() -> Self {
        let cluster = MemoryCluster::new(1);
        let other = cluster.client(1);
        let configuration = Txn::default().then(vec![Op::put(keys::CLUSTER_CONFIGURATION, "some")]);
        other.txn(configuration).await.unwrap();
        let lock = Txn::default().then(vec![Op::put(LOCK, "me")]);
        let revision = other.txn(lock).await.unwrap().revision;
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(1_000_000);
        let (term_owner, term) = Term::for_test(LOCK, revision, until, clock);
        let accesses = Arc::new(AtomicUsize::new(0));
        let (answers, answered) = watch::channel(true);
        let overloaded = Arc::new(AtomicBool::new(false));
        let store = Counting {
            overloaded: overloaded.clone(),
            answers: answered,
            store: cluster.client(0),
            accesses: accesses.clone(),
        };
        let state = State::new(Fenced::new(Arc::new(store), term), StateLimits::default());
        let running = tokio::spawn(state.clone().run());
        state.read_barrier().await.unwrap();
        accesses.store(0, Ordering::Relaxed);
        Self {
            cluster,
            other,
            state,
            accesses,
            answers,
            overloaded,
            running,
            _term_owner: term_owner,
        }
    }

    fn faults(&self, faults: Faults) {
        self.cluster.set_faults(0, faults);
    }

    fn slow(&self) {
        self.faults(Faults {
            delay: Duration::from_millis(100),
            ..Faults::default()
        });
    }

    async fn behind(&self, op: Op) -> Revision {
        self.other.txn(Txn::default().then(vec![op])).await.unwrap().revision
    }

    fn accesses(&self) -> usize {
        self.accesses.load(Ordering::Relaxed)
    }
}

fn key(number: usize) -> String {
    format!("/nodes/n{number}")
}

/// Increments the number at a key; returns the previous one.
async fn count(state: &State, key: String) -> Result<u64, Status> {
    state
        .transact(|tx| {
            let before = tx.get(key.clone()).map_or(0, |entry| {
                std::str::from_utf8(&entry.value).unwrap().parse::<u64>().unwrap()
            });
            tx.put(key.clone(), (before + 1).to_string());
            Ok(before)
        })
        .await
}

fn number(view: &View, key: &str) -> u64 {
    let entry = view.get(key.as_bytes());
    entry.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn writes_that_wait_share_a_transaction_and_each_has_its_answer() {
    let stage = Stage::new().await;
    stage.slow();
    let writes = (0..200).map(|number| {
        let state = stage.state.clone();
        async move { count(&state, key(number)).await }
    });
    for before in futures::future::join_all(writes).await {
        assert_eq!(before.unwrap(), 0);
    }
    // The first change goes alone or with the ones queued by then; 64 fit into one transaction.
    assert!(stage.accesses() <= 6, "{}", stage.accesses());
}

/// A request that costs a stranger one message must not cost the store a transaction.
#[tokio::test(start_paused = true)]
async fn refusals_write_nothing_and_share_their_fences() {
    let stage = Stage::new().await;
    stage.slow();
    let refused = (0..1_000).map(|_| {
        let state = stage.state.clone();
        async move {
            let refuse = |tx: &mut Tx<'_>| match tx.get(keys::REGISTER_TICKET) {
                Some(_) => Ok(()),
                None => Err(Status::permission_denied("no")),
            };
            state.transact(refuse).await
        }
    });
    for refused in futures::future::join_all(refused).await {
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    assert!(stage.accesses() <= 2, "{}", stage.accesses());
}

#[tokio::test(start_paused = true)]
async fn what_many_write_at_once_is_counted_once_each() {
    let stage = Stage::new().await;
    let writes = (0..300).map(|_| count(&stage.state, key(1)));
    let seen: Vec<_> = futures::future::join_all(writes)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(seen, (0..300).collect::<Vec<_>>(), "in the order in which they came");
    // Changes that are known to conflict are not sent.
    assert_eq!(stage.accesses(), 300);
}

/// Concurrent writers of the same key make equal progress.
#[tokio::test(start_paused = true)]
async fn nobody_is_always_overtaken() {
    let stage = Stage::new().await;
    let lanes: Vec<_> = (0..8)
        .map(|_| {
            let state = stage.state.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    count(&state, key(1)).await.unwrap();
                }
                Instant::now()
            })
        })
        .collect();
    stage.slow();
    let started = Instant::now();
    for lane in lanes {
        // 200 changes take 20 s: without an order the last writer might start when the others have finished.
        let took = lane.await.unwrap() - started;
        assert!(took > Duration::from_secs(18), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_share_a_fence() {
    let stage = Stage::new().await;
    stage.slow();
    let reads = (0..500).map(|_| stage.state.read(|_| ()));
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
    assert_eq!(
        stage.accesses(),
        2,
        "one for the first, and one for all that came before the next was sent"
    );
}

/// A fence that was sent before a read began proves nothing for that read: the store may have executed it before
/// another leader was elected, and that leader may have acknowledged a write before the read began.
#[tokio::test(start_paused = true)]
async fn a_read_does_not_use_a_fence_that_was_under_way() {
    let stage = Stage::new().await;
    stage.answers.send_replace(false);
    let first = tokio::spawn({
        let state = stage.state.clone();
        async move { state.read(|_| ()).await }
    });
    // The store has executed the first read's fence, and the reply is on its way.
    while stage.accesses() == 0 {
        tokio::task::yield_now().await;
    }
    // Another leader is elected and acknowledges a write.
    stage.behind(Op::delete(LOCK)).await;
    stage.behind(Op::put("/leader/2", "other")).await;
    stage.behind(Op::put(key(1), "1")).await;
    // A read that begins after that must not return the old value.
    let late = tokio::spawn({
        let state = stage.state.clone();
        async move { state.read(|view| number(view, &key(1))).await }
    });
    tokio::task::yield_now().await;
    stage.answers.send_replace(true);
    first.await.unwrap().unwrap();
    let late = late.await.unwrap();
    assert!(
        matches!(late, Err(StateError::Fenced(FencedError::LostLeadership))),
        "{late:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_read_sees_what_was_acknowledged_before_it_though_the_watch_is_behind() {
    let stage = Stage::new().await;
    // Watch events do not arrive; replies do.
    stage.cluster.close_watches(0);
    for round in 0..20 {
        assert_eq!(count(&stage.state, key(1)).await.unwrap(), round);
        assert_eq!(stage.state.read(|view| number(view, &key(1))).await.unwrap(), round + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_does_not_hold_up_the_others() {
    let stage = Stage::new().await;
    stage.slow();
    let first = tokio::time::timeout(Duration::from_millis(1), stage.state.read(|_| ())).await;
    assert!(first.is_err(), "it went while its fence was under way");
    stage.state.read(|_| ()).await.unwrap();
    let write = tokio::time::timeout(Duration::from_millis(1), count(&stage.state, key(1))).await;
    assert!(write.is_err());
    count(&stage.state, key(2)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_behind_the_leaders_back_is_decided_on_anew() {
    let stage = Stage::new().await;
    count(&stage.state, key(1)).await.unwrap();
    // The leader gets no event before it writes.
    stage.cluster.close_watches(0);
    stage.behind(Op::put(key(1), "41")).await;
    assert_eq!(count(&stage.state, key(1)).await.unwrap(), 41);
    stage.behind(Op::delete(key(1))).await;
    assert_eq!(count(&stage.state, key(1)).await.unwrap(), 0);
}

/// An overloaded store does not get 64 times the requests, and gets fewer while it stays overloaded.
#[tokio::test(start_paused = true)]
async fn an_overloaded_store_gets_less_to_do() {
    let stage = Stage::new().await;
    stage.overloaded.store(true, Ordering::Relaxed);
    let writes = (0..64).map(|number| count(&stage.state, key(number)));
    for refused in futures::future::join_all(writes).await {
        let refused = refused.unwrap_err();
        assert!(refused.message().contains("overloaded"), "{refused}");
    }
    assert!(stage.accesses() <= 3, "{} accesses", stage.accesses());
    // Callers that retry at once.
    let state = stage.state.clone();
    let stubborn = tokio::spawn(async move {
        loop {
            if count(&state, key(1)).await.is_ok() {
                return;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.accesses.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(stage.accesses() <= 60, "{} accesses in ten seconds", stage.accesses());
    stage.overloaded.store(false, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(2), stubborn)
        .await
        .unwrap()
        .unwrap();
    let begun = tokio::time::Instant::now();
    count(&stage.state, key(2)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());
}

/// A write whose reply is lost is not acknowledged, and becomes visible later.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_told_as_such() {
    let stage = Stage::new().await;
    stage.faults(Faults {
        link: Link::RepliesLost,
        ..Faults::default()
    });
    let refused = count(&stage.state, key(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("may or may not have been made"), "{refused}");
    stage.faults(Faults::default());
    assert_eq!(count(&stage.state, key(1)).await.unwrap(), 1, "it had been made");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_by_what_is_so_now() {
    let stage = Stage::new().await;
    stage.cluster.close_watches(0);
    let refuse = || {
        stage.state.transact(|tx| match tx.get(key(1)) {
            Some(_) => Ok(()),
            None => Err(Status::not_found("nothing")),
        })
    };
    assert_eq!(refuse().await.unwrap_err().code(), Code::NotFound);
    // A former leader would refuse on the basis of stale state.
    stage.behind(Op::delete(LOCK)).await;
    assert_eq!(refuse().await.unwrap_err().code(), Code::Unavailable);
}

/// `curator bootstrap` writes without a term: a leader without a cluster reads again before it answers.
#[tokio::test(start_paused = true)]
async fn a_cluster_that_has_just_been_made_is_seen_at_once() {
    let stage = Stage::new().await;
    stage.behind(Op::delete(keys::CLUSTER_CONFIGURATION)).await;
    while stage.state.view().get(keys::CLUSTER_CONFIGURATION.as_bytes()).is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.faults(Faults::default());
    stage.behind(Op::put(keys::CLUSTER_CONFIGURATION, "new")).await;
    let there = stage
        .state
        .read(|view| view.get(keys::CLUSTER_CONFIGURATION.as_bytes()).is_some())
        .await;
    assert!(there.unwrap());
}

mod view {
    use crate::state::*;

    fn record(id: &str) -> Bytes {
        use prost::Message;
        let node = curator_proto::private::Node {
            id: id.into(),
            ..Default::default()
        };
        node.encode_to_vec().into()
    }

    fn put(view: &mut View, id: &str, revision: i64) {
        view.put(format!("/nodes/{id}").into(), record(id), Revision(revision));
    }

    #[test]
    fn nothing_goes_back_to_an_older_revision() {
        let mut view = View::default();
        let key = Bytes::from("/global/register_ticket");
        view.put(key.clone(), "new".into(), Revision(5));
        view.put(key.clone(), "old".into(), Revision(4));
        view.delete(&key, Revision(3));
        assert_eq!(view.get(&key).unwrap().value, "new");
        view.delete(&key, Revision(6));
        view.put(key.clone(), "old".into(), Revision(5));
        assert_eq!(view.get(&key), None);
        view.put(key.clone(), "newer".into(), Revision(7));
        assert_eq!(view.get(&key).unwrap().value, "newer");
    }

    #[test]
    fn each_node_has_its_newest_change_alone() {
        let mut view = View::default();
        for revision in 2..100 {
            put(&mut view, "a", revision);
            put(&mut view, "b", revision);
        }
        view.delete(&"/nodes/a".into(), Revision(100));
        let changes = view.changes_after(0, 10).unwrap();
        let told: Vec<_> = changes
            .iter()
            .map(|change| (&*change.id, change.node.is_some()))
            .collect();
        assert_eq!(told, [("b", true), ("a", false)]);
        assert!(view.changes_after(view.newest(), 10).unwrap().is_empty());
    }

    #[test]
    fn what_is_missing_after_a_break_was_deleted() {
        let mut view = View::default();
        put(&mut view, "a", 2);
        put(&mut view, "b", 3);
        let before = view.newest();
        // Written by the leader itself, after the read.
        put(&mut view, "c", 9);
        let kv = KeyValue {
            key: "/nodes/b".into(),
            value: record("b"),
            create_revision: Revision(3),
            mod_revision: Revision(3),
            version: 1,
            lease: None,
        };
        view.reset(vec![kv], Revision(8));
        let changes = view.changes_after(before, 10).unwrap();
        let told: Vec<_> = changes
            .iter()
            .map(|change| (&*change.id, change.node.is_some()))
            .collect();
        assert_eq!(told, [("c", true), ("a", false)]);
    }

    #[test]
    fn deletions_are_remembered_up_to_a_bound_and_never_lost_in_silence() {
        let mut view = View::default();
        for number in 0..10_050_i64 {
            put(&mut view, &format!("n{number}"), number * 2 + 2);
            view.delete(&format!("/nodes/n{number}").into(), Revision(number * 2 + 3));
        }
        assert!(view.changes_after(0, 1).is_err());
        let half = view.newest() / 2;
        assert!(
            view.changes_after(half, usize::MAX)
                .unwrap()
                .iter()
                .all(|change| change.node.is_none())
        );
        assert_eq!(view.nodes().count(), 0);
    }

    use curator_election::store::KeyValue;
}

/// A backup with the lock key is restored under a leader. There were as many writes since that the store's revision
/// does not show it; the key's revision does.
#[tokio::test(start_paused = true)]
async fn a_store_that_has_lost_a_write_ends_the_term() {
    for writes in [false, true] {
        let stage = Stage::new().await;
        stage.behind(Op::put("/nodes/n1", "0")).await;
        stage.behind(Op::put("/nodes/n2", "0")).await;
        stage.state.read(|_| ()).await.expect("leads");
        let backup = stage.cluster.with_model(|model, _| model.snapshot());
        let counted = count(&stage.state, key(1)).await.expect("leads");
        assert_eq!(counted, 0);
        stage.cluster.with_model(|model, now| {
            model.go_back_to(backup, now);
            for _ in 0..9 {
                let put = Txn::default().then(vec![Op::put("/elsewhere", "v")]);
                model.txn(&put).expect("no faults");
            }
        });
        let began = Instant::now();
        if writes {
            let error = count(&stage.state, key(1)).await.expect_err("the view is of no use");
            assert_eq!(error.code(), Code::Unavailable, "{error:?}");
            assert_eq!(error.message(), "lost leadership");
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        } else {
            stage.cluster.close_watches(0);
        }
        tokio::time::timeout(Duration::from_secs(5), stage.state.fenced().term().ended())
            .await
            .expect("the term ends");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_large_is_refused_and_nothing_is_written() {
    let stage = Stage::new().await;
    let large = vec![0; StateLimits::default().record + 1];
    let write = |tx: &mut Tx<'_>| {
        tx.put("/nodes/n1", large.clone());
        Ok(())
    };
    let refused = stage.state.transact(write).await.expect_err("it is too large");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let there = stage.cluster.with_model(|model, _| model.get(b"/nodes/n1").is_some());
    assert!(!there, "it was written");
    count(&stage.state, key(1)).await.expect("others go on");
}
