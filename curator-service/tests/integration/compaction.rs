//! Compaction, which takes from an observer the history that it wanted to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::store::{
    Keys, Lease, LeaseId, Op, Range, RangeResult, Revision, Store, StoreError, Txn, TxnResult, WatchStream,
};
use curator_election::{ElectionBackend, StoreElection};
use curator_harness::{At, EtcdBinaries, EtcdCluster, EtcdOptions, TempDir};
use futures::StreamExt;

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

#[test]
fn compaction_disturbs_no_election_that_goes_on() {
    let (stage, leader) = TestCluster::elected("compact", Reach::Own, TTL, EtcdOptions::default());
    let marks = stage.marks();
    for _ in 0..3 {
        stage.etcd.etcdctl(At::Any, &["put", "unrelated", "x"], SOON).unwrap();
        stage
            .etcd
            .compact(At::Any, stage.etcd.revision(At::Any).unwrap())
            .unwrap();
    }
    let queue = stage.queue();
    stage.curators[leader].terminate().unwrap();
    let (next, _) = stage.next_leader(&stage.others(leader), &marks, SOON);
    assert_eq!(next, queue[1], "the order of the queue");
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_nobody_compacts_is_noticed() {
    let scratch = TempDir::new("history").unwrap();
    let etcd = tokio::task::block_in_place(|| {
        EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), &scratch, EtcdOptions::default()).unwrap()
    });
    let store = EtcdStore::new(EtcdConfig::new(etcd.endpoints())).unwrap();
    let keeps = async |revisions| store.keeps_more_than(revisions, "none".into()).await.unwrap();
    assert!(!keeps(20).await, "there is no such history yet");
    for _ in 0..30 {
        store.txn(Txn::default().then(vec![Op::put("k", "v")])).await.unwrap();
    }
    assert!(keeps(20).await);
    tokio::task::block_in_place(|| etcd.compact(At::Any, etcd.revision(At::Any).unwrap() - 5).unwrap());
    assert!(!keeps(20).await);
    assert!(keeps(3).await);
}

/// An etcd in which, right before a watch begins, the leader's lease goes and the history is compacted past that: the
/// event that the watch is for can never be delivered.
struct Forgetful {
    etcd: EtcdStore,
    cluster: Arc<EtcdCluster>,
    /// The lease that goes, until it has gone.
    leader: std::sync::Mutex<Option<LeaseId>>,
    /// How many watches have ended for that.
    compacted: Arc<AtomicU32>,
}

#[async_trait]
impl Store for Forgetful {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.etcd.txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.etcd.range(range).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        let leader = self.leader.lock().unwrap().take();
        if let Some(leader) = leader {
            self.etcd.revoke(leader).await?;
            // Two writes more, since a watch may still begin at the compacted revision itself.
            let mut newest = Revision(0);
            for _ in 0..2 {
                let put = Txn::default().then(vec![Op::put("unrelated", "x")]);
                newest = self.etcd.txn(put).await?.revision;
            }
            self.cluster.compact(At::Any, newest.0).unwrap();
        }
        let watch = self.etcd.watch(keys, from).await?;
        // etcd confirms such a watch, and only then says that its beginning is gone.
        let compacted = self.compacted.clone();
        let counted = watch.inspect(move |batch| {
            if matches!(batch, Err(StoreError::Compacted { .. })) {
                compacted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(counted.boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.etcd.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        self.etcd.keep_alive(lease, attempt).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.etcd.revoke(lease).await
    }
}

/// With the refresh far away, so that it is the watch's failure and not the time that makes the reader look again.
const NO_REFRESH: Duration = Duration::from_secs(600);
const LONG: Duration = Duration::from_secs(60);

struct Forgotten {
    store: Arc<Forgetful>,
    first: Lease,
    second: Lease,
}

/// Runs a test on an etcd with two candidates, the first of which goes in the moment that somebody watches.
fn with_a_forgetful_etcd<F: Future<Output = ()>>(label: &str, test: impl FnOnce(Forgotten) -> F) {
    let scratch = TempDir::new(label).unwrap();
    let options = EtcdOptions {
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    let cluster = EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), &scratch, options).unwrap();
    let etcd = EtcdStore::new(EtcdConfig::new(cluster.endpoints())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (first, second) = (etcd.grant(LONG).await.unwrap(), etcd.grant(LONG).await.unwrap());
        let store = Arc::new(Forgetful {
            etcd,
            cluster: Arc::new(cluster),
            leader: std::sync::Mutex::new(Some(first.id)),
            compacted: Arc::default(),
        });
        let forgotten = Forgotten { store, first, second };
        tokio::time::timeout(SOON, test(forgotten))
            .await
            .expect("it looks again by itself");
    });
}

fn put(lease: Lease, value: &'static str) -> Txn {
    Txn::default().then(vec![Op::Put {
        key: format!("/leader/{}", lease.id).into(),
        value: value.into(),
        lease: Some(lease.id),
    }])
}

#[test]
fn an_observer_sees_a_change_whose_history_is_compacted() {
    with_a_forgetful_etcd("forgetful-observer", async |Forgotten { store, first, second }| {
        store.txn(put(first, "first")).await.unwrap();
        store.txn(put(second, "second")).await.unwrap();
        let mut observed = StoreElection::new(store.clone(), "/leader", NO_REFRESH).observe();
        for value in ["first", "second"] {
            let leader = observed.next().await.unwrap().leader.unwrap();
            assert_eq!(leader.value, value);
        }
        assert!(store.compacted.load(Ordering::SeqCst) > 0, "nothing was compacted away");
    });
}

#[test]
fn a_campaign_goes_on_when_the_end_of_the_one_before_is_compacted() {
    with_a_forgetful_etcd("forgetful-campaign", async |Forgotten { store, first, second }| {
        store.txn(put(first, "first")).await.unwrap();
        let election = StoreElection::new(store.clone(), "/leader", NO_REFRESH);
        let elected = election.campaign(second.id, "second".into(), None).await.unwrap();
        assert_eq!(elected.key, format!("/leader/{}", second.id));
        assert!(store.compacted.load(Ordering::SeqCst) > 0, "nothing was compacted away");
    });
}
