//! The election's algorithm on the model of etcd, one scenario at a time.

use super::*;
use crate::memory::{Faults, Link, MemoryClient, MemoryCluster};

const TTL: Duration = Duration::from_secs(6);

type Election = StoreElection<MemoryClient>;

fn election(cluster: &MemoryCluster, node: usize) -> Arc<Election> {
    Arc::new(StoreElection::new(Arc::new(cluster.client(node)), "/leader", TTL / 3).with_seed(1))
}

async fn queue(election: &Arc<Election>, name: &'static str) -> (LeaseId, Campaign) {
    let lease = election.grant(TTL).await.unwrap().id;
    let (campaigning, key) = (election.clone(), election.key_of(lease));
    let campaign = tokio::spawn(async move { campaigning.campaign(lease, name.into(), None).await });
    let queued = async {
        while !election
            .candidates()
            .await
            .is_ok_and(|all| all.iter().any(|candidate| candidate.key == key))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(queued).await;
    (lease, campaign)
}

type Campaign = tokio::task::JoinHandle<Result<Elected, CampaignError>>;

/// Within a minute of simulated time, which a lease of nobody's would not live.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("in time")
}

/// All that can happen without the time moving has happened.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(200)).await;
}

async fn leader_of(observations: &mut BoxStream<'static, Observation>) -> Option<Bytes> {
    soon(observations.next())
        .await
        .expect("never ends")
        .leader
        .map(|leader| leader.value)
}

/// Lets the watch open that follows an observation.
async fn nothing_is_observed(observations: &mut BoxStream<'static, Observation>) {
    let early = tokio::time::timeout(Duration::from_millis(100), observations.next()).await;
    assert!(early.is_err(), "{early:?}");
}

#[tokio::test(start_paused = true)]
async fn candidates_win_in_the_order_of_their_creation() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let (first, won) = queue(&election, "first").await;
    let elected = soon(won).await.unwrap().unwrap();
    assert_eq!(elected.key, format!("/leader/{first}"));
    assert_eq!(elected.revision, Revision(2));
    let (second, second_won) = queue(&election, "second").await;
    let (_, third_won) = queue(&election, "third").await;
    settle().await;
    assert!(!second_won.is_finished() && !third_won.is_finished());
    election.revoke(first).await.unwrap();
    soon(second_won).await.unwrap().unwrap();
    settle().await;
    assert!(!third_won.is_finished(), "an older candidate leads");
    election.revoke(second).await.unwrap();
    soon(third_won).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_goes_is_not_yet_a_victory() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let (_, _leads) = queue(&election, "first").await;
    let (second, _) = queue(&election, "second").await;
    let (_, third) = queue(&election, "third").await;
    election.revoke(second).await.unwrap();
    settle().await;
    assert!(!third.is_finished());
}

/// Pitfall 3: a queued candidate loses its lease, then its predecessor goes.
#[tokio::test(start_paused = true)]
async fn a_candidate_whose_key_is_gone_does_not_win() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let (first, _leads) = queue(&election, "first").await;
    let (second, campaign) = queue(&election, "second").await;
    cluster.with_model(|model, _| model.revoke(second)).unwrap();
    election.revoke(first).await.unwrap();
    let lost = soon(campaign).await.unwrap();
    assert!(matches!(lost, Err(CampaignError::KeyLost { .. })), "{lost:?}");
}

/// The same, but somebody put the key again: it is another key by its create revision.
#[tokio::test(start_paused = true)]
async fn a_key_created_anew_is_not_the_own_one() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let (first, _leads) = queue(&election, "first").await;
    let (second, campaign) = queue(&election, "second").await;
    let key = election.key_of(second);
    cluster.with_model(|model, _| {
        model.txn(&Txn::default().then(vec![Op::delete(key.clone())])).unwrap();
        model.txn(&Txn::default().then(vec![Op::put(key, "second")])).unwrap();
    });
    election.revoke(first).await.unwrap();
    let lost = soon(campaign).await.unwrap();
    assert!(matches!(lost, Err(CampaignError::KeyLost { .. })), "{lost:?}");
}

/// Pitfall 19: the put is carried out and the reply lost; the next try finds the own key instead of a second place.
#[tokio::test(start_paused = true)]
async fn a_lost_reply_does_not_queue_twice() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let lease = election.grant(TTL).await.unwrap().id;
    cluster.set_faults(
        0,
        Faults {
            link: Link::RepliesLost,
            ..Faults::default()
        },
    );
    let campaigning = election.clone();
    let campaign = tokio::spawn(async move { campaigning.campaign(lease, "node".into(), None).await });
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let created = cluster.with_model(|model, _| model.get(&election.key_of(lease)).map(|kv| kv.create_revision));
    cluster.set_faults(0, Faults::default());
    let elected = soon(campaign).await.unwrap().unwrap();
    assert_eq!(Some(elected.revision), created);
    assert_eq!(election.candidates().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_goes_on_through_lost_connections_and_compaction() {
    let cluster = MemoryCluster::new(1);
    let (election, other) = (election(&cluster, 0), election(&cluster, 1));
    let (first, _leads) = queue(&other, "first").await;
    let (second, campaign) = queue(&election, "second").await;
    cluster.set_faults(
        0,
        Faults {
            link: Link::Refused,
            ..Faults::default()
        },
    );
    cluster.close_watches(0);
    settle().await;
    for _ in 0..3 {
        cluster.with_model(|model, now| {
            model.txn(&Txn::default().then(vec![Op::put("/other", "x")])).unwrap();
            model.compact(model.revision()).unwrap();
            model.keep_alive(now, second).unwrap();
        });
    }
    other.revoke(first).await.unwrap();
    cluster.set_faults(0, Faults::default());
    soon(campaign).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_campaign_under_a_lease_that_is_gone_leaves_no_key() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let lease = election.grant(TTL).await.unwrap().id;
    election.revoke(lease).await.unwrap();
    let lost = soon(election.campaign(lease, "node".into(), None)).await;
    assert!(
        matches!(lost, Err(CampaignError::Store(StoreError::LeaseNotFound { .. }))),
        "{lost:?}"
    );
    assert!(election.candidates().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_second_campaign_of_a_lease_proclaims_its_new_value() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let lease = election.grant(TTL).await.unwrap().id;
    let first = soon(election.campaign(lease, "old".into(), None)).await.unwrap();
    let second = soon(election.campaign(lease, "new".into(), None)).await.unwrap();
    assert_eq!(first.revision, second.revision);
    assert_eq!(election.candidates().await.unwrap()[0].value, "new");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_has_changed_is_not_removed() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let (_, won) = queue(&election, "node").await;
    soon(won).await.unwrap().unwrap();
    let found = election.candidates().await.unwrap().remove(0);
    assert!(
        !election
            .remove(found.key.clone(), Revision(found.mod_revision.0 + 1))
            .await
            .unwrap()
    );
    assert!(election.remove(found.key.clone(), found.mod_revision).await.unwrap());
    assert!(!election.remove(found.key, found.mod_revision).await.unwrap());
}

/// Pitfall 7: one batch with the puts of several candidates.
#[tokio::test(start_paused = true)]
async fn of_several_at_once_the_oldest_is_observed() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let mut observations = election.observe();
    assert_eq!(leader_of(&mut observations).await, None);
    cluster.set_faults(
        0,
        Faults {
            link: Link::Cut,
            ..Faults::default()
        },
    );
    cluster.with_model(|model, _| {
        for name in ["c", "a", "b"] {
            model
                .txn(&Txn::default().then(vec![Op::put(format!("/leader/{name}"), name)]))
                .unwrap();
        }
    });
    cluster.set_faults(0, Faults::default());
    assert_eq!(leader_of(&mut observations).await.as_deref(), Some(&b"c"[..]));
}

/// Pitfall 8: compaction past the observer's revision, while it is cut off.
#[tokio::test(start_paused = true)]
async fn an_observer_recovers_from_compaction_and_misses_no_last_leader() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let set = |name: &'static str| {
        cluster.with_model(|model, _| {
            model
                .txn(&Txn::default().then(vec![Op::Delete(election.all_keys())]))
                .unwrap();
            model
                .txn(&Txn::default().then(vec![Op::put(format!("/leader/{name}"), name)]))
                .unwrap();
            model.compact(model.revision()).unwrap();
        });
    };
    set("first");
    let mut observations = election.observe();
    assert_eq!(leader_of(&mut observations).await.as_deref(), Some(&b"first"[..]));
    for name in ["second", "third"] {
        cluster.set_faults(
            0,
            Faults {
                link: Link::Cut,
                ..Faults::default()
            },
        );
        set(name);
        let silent = tokio::time::timeout(Duration::from_secs(4), observations.next()).await;
        assert!(silent.is_err(), "{silent:?}");
        cluster.set_faults(0, Faults::default());
        while leader_of(&mut observations).await.as_deref() != Some(name.as_bytes()) {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_confirms_what_does_not_change() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let mut observations = election.observe();
    for _ in 0..5 {
        let next = tokio::time::timeout(TTL / 3 + Duration::from_millis(1), observations.next()).await;
        next.expect("a sign of life each third of the TTL").unwrap();
    }
}

/// A namespace in front of the keys keeps two elections apart.
#[tokio::test(start_paused = true)]
async fn namespaces_do_not_see_each_other() {
    use crate::namespace::Namespaced;
    let cluster = MemoryCluster::new(1);
    let in_namespace = |name: &str| {
        let store = Namespaced::new(cluster.client(0), name.parse().unwrap());
        StoreElection::new(Arc::new(store), "/leader", TTL / 3)
    };
    let (one, two) = (in_namespace("a:b"), in_namespace("a:c"));
    for (name, election) in [("a:b", &one), ("a:c", &two)] {
        let lease = election.grant(TTL).await.unwrap().id;
        let elected = soon(election.campaign(lease, "node".into(), None)).await.unwrap();
        assert_eq!(elected.key, format!("/leader/{lease}"));
        let stored = format!("{name}//leader/{lease}");
        assert!(cluster.with_model(|model, _| model.get(stored.as_bytes()).is_some()));
        assert_eq!(election.candidates().await.unwrap().len(), 1);
    }
}

/// A store that answers everything but never sets up a watch.
#[derive(Debug)]
struct NoWatches(MemoryClient);

#[async_trait]
impl Store for NoWatches {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.0.txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<crate::store::RangeResult, StoreError> {
        self.0.range(range).await
    }

    async fn watch(&self, _: Keys, _: Revision) -> Result<WatchStream, StoreError> {
        std::future::pending().await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.0.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId, attempt: u32) -> Result<Duration, StoreError> {
        self.0.keep_alive(lease, attempt).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }
}

/// News would grow old meanwhile, and nobody could tell by how much.
#[tokio::test(start_paused = true)]
async fn news_do_not_wait_for_the_watch_that_follows_them() {
    let cluster = MemoryCluster::new(1);
    let (_first, won) = queue(&election(&cluster, 0), "first").await;
    soon(won).await.unwrap().unwrap();
    let observer = StoreElection::new(Arc::new(NoWatches(cluster.client(1))), "/leader", TTL / 3);
    let begun = tokio::time::Instant::now();
    assert_eq!(leader_of(&mut observer.observe()).await.as_deref(), Some(&b"first"[..]));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// A member of etcd that was stopped delivers events before it answers reads. Its leader's term must not outlast its
/// key for as long.
#[tokio::test(start_paused = true)]
async fn an_observer_whose_reads_hang_reports_that_the_leader_is_gone() {
    let cluster = MemoryCluster::new(2);
    let first_election = election(&cluster, 0);
    let (first, won) = queue(&first_election, "first").await;
    soon(won).await.unwrap().unwrap();
    let (_second, _) = queue(&first_election, "second").await;
    let mut observations = election(&cluster, 1).observe();
    assert_eq!(leader_of(&mut observations).await.as_deref(), Some(&b"first"[..]));
    nothing_is_observed(&mut observations).await;
    cluster.set_faults(
        1,
        Faults {
            link: Link::RequestsLost,
            ..Faults::default()
        },
    );
    first_election.revoke(first).await.unwrap();
    let began = tokio::time::Instant::now();
    let gone = soon(observations.next()).await.expect("never ends");
    assert_eq!(gone.leader, None, "{gone:?}");
    assert!(began.elapsed() <= Duration::from_millis(100), "{:?}", began.elapsed());
    cluster.set_faults(1, Faults::default());
    let next = soon(observations.next()).await.expect("never ends");
    assert_eq!(next.leader.expect("is queued").value, "second");
    assert!(next.revision >= gone.revision);
}

/// While reads are answered, the next leader follows the last one directly.
#[tokio::test(start_paused = true)]
async fn an_observer_reports_the_next_leader_and_nothing_between() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let (first, won) = queue(&election, "first").await;
    soon(won).await.unwrap().unwrap();
    let (_second, _) = queue(&election, "second").await;
    let mut observations = election.observe();
    assert_eq!(leader_of(&mut observations).await.as_deref(), Some(&b"first"[..]));
    nothing_is_observed(&mut observations).await;
    election.revoke(first).await.unwrap();
    assert_eq!(leader_of(&mut observations).await.as_deref(), Some(&b"second"[..]));
}

/// Issue: a backup is restored under the instances, and its revision is far below the newest that they have seen.
#[tokio::test(start_paused = true)]
async fn an_observer_of_a_store_that_goes_back_begins_afresh() {
    let cluster = MemoryCluster::new(1);
    let election = election(&cluster, 0);
    let (_, _leads) = queue(&election, "first").await;
    let backup = cluster.with_model(|model, _| model.snapshot());
    for _ in 0..100 {
        let put = Txn::default().then(vec![Op::put("/elsewhere", "v")]);
        cluster.with_model(|model, _| model.txn(&put)).expect("no faults");
    }
    let mut observations = election.observe();
    let before = soon(observations.next()).await.expect("never ends");
    cluster.restore(backup.clone());
    let began = tokio::time::Instant::now();
    let after = soon(observations.next()).await.expect("never ends");
    assert!(before.revision > after.revision, "{before:?} {after:?}");
    assert_eq!(after.revision, backup.revision());
    assert_eq!(after.leader.expect("is in the backup").value, "first");
    assert!(
        began.elapsed() <= TTL / 3 + Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    // What happens from there on is observed, though the revision has been seen before.
    let (second, _) = queue(&election, "second").await;
    election.revoke(second).await.expect("no faults");
    let leader = cluster.with_model(|model, _| {
        let oldest = Range::oldest(Keys::prefix("/leader/"));
        model.range(&oldest).expect("no faults").kvs[0].key.clone()
    });
    cluster
        .with_model(|model, _| model.txn(&Txn::default().then(vec![Op::delete(leader)])))
        .expect("no faults");
    assert_eq!(leader_of(&mut observations).await, None);
}
