//! Callers that fence their writes, with the right guard and with a wrong one, on the model of etcd.

#![allow(clippy::unwrap_used, reason = "a failed call is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::TokioClock;
use curator_election::memory::MemoryCluster;
use curator_election::namespace::{Namespace, Namespaced};
use curator_election::store::{Op, Store, Txn};
use curator_election::{
    ElectionStatus, Elector, ElectorConfig, ElectorHandle, Fenced, PlainText, Reason, StoreElection, Term,
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
