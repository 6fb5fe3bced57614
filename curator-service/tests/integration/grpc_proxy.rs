//! Watches that are told no progress: behind etcd's own gRPC proxy, which answers everything else, and of what has not
//! happened yet.

use curator_election::etcd::{EtcdConfig, EtcdStore, PROGRESS_INTERVAL};
use curator_election::store::{Event, Keys, Op, Revision, Store, Txn};
use curator_harness::{At, EtcdBinaries, EtcdCluster, EtcdOptions, Port, Process, ProcessSpec, TempDir};
use futures::StreamExt;
use tokio::time::timeout;

use crate::test_cluster::SOON;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_through_etcds_proxy_goes_on_in_silence() {
    let scratch = TempDir::new("grpc-proxy").unwrap();
    let binaries = EtcdBinaries::from_env().unwrap();
    let program = binaries.directory().join("etcd");
    let port = Port::reserve().unwrap();
    let (etcd, _proxy) = tokio::task::block_in_place(|| {
        let etcd = EtcdCluster::start(&binaries, &scratch, EtcdOptions::default()).unwrap();
        let spec = ProcessSpec::new("grpc-proxy", program).args([
            "grpc-proxy",
            "start",
            "--endpoints",
            &etcd.endpoints().join(","),
            "--listen-addr",
            &port.address().to_string(),
        ]);
        let proxy = Process::start(&spec, &scratch).unwrap();
        (etcd, proxy)
    });
    let store = EtcdStore::new(EtcdConfig::new(vec![port.url()])).unwrap();
    let put = |value: &'static str| Txn::default().then(vec![Op::put("k", value)]);
    let ready = async { while store.txn(put("before")).await.is_err() {} };
    timeout(SOON, ready).await.expect("the proxy is there");
    let mut watch = store.watch(Keys::one("k"), Revision(0)).await.unwrap();
    // Before, it ended after two of these, and whoever used it read everything anew.
    let silence = async {
        loop {
            let next = watch.next().await;
            let is_old = |event: &Event| matches!(event, Event::Put(kv) if kv.value == "before");
            match &next {
                // The last of the attempts.
                Some(Ok(batch)) if batch.events.iter().all(is_old) => {}
                _ => return next,
            }
        }
    };
    let silence = timeout(5 * PROGRESS_INTERVAL, silence).await;
    assert!(silence.is_err(), "{silence:?}");
    tokio::task::block_in_place(|| etcd.etcdctl(At::Any, &["put", "k", "after"], SOON).unwrap());
    let heard = async {
        loop {
            let batch = watch.next().await.expect("goes on").expect("goes on");
            if let Some(Event::Put(kv)) = batch.events.into_iter().next() {
                return kv.value;
            }
        }
    };
    assert_eq!(timeout(SOON, heard).await.expect("it hears"), "after");
}

/// Newer versions of etcd tell no progress of such a watch, which ended after two of these, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_what_has_not_happened_yet_goes_on_in_silence() {
    let scratch = TempDir::new("quiet").unwrap();
    let etcd = tokio::task::block_in_place(|| {
        EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), &scratch, EtcdOptions::default()).unwrap()
    });
    let store = EtcdStore::new(EtcdConfig::new(etcd.endpoints())).unwrap();
    let put = |value: &'static str| Txn::default().then(vec![Op::put("k", value)]);
    let written = store.txn(put("before")).await.unwrap().revision;
    // The member is known to tell progress.
    let mut watch = store.watch(Keys::one("other"), Revision(0)).await.unwrap();
    timeout(SOON, watch.next())
        .await
        .expect("progress")
        .expect("goes on")
        .expect("goes on");
    let mut watch = store.watch(Keys::one("k"), written.next()).await.unwrap();
    let silence = timeout(5 * PROGRESS_INTERVAL, watch.next()).await;
    if let Ok(Some(ended)) = &silence {
        assert!(ended.as_ref().is_ok_and(|batch| batch.events.is_empty()), "{ended:?}");
    }
    store.txn(put("after")).await.unwrap();
    let heard = async {
        loop {
            let batch = watch.next().await.expect("goes on").expect("goes on");
            if let Some(Event::Put(kv)) = batch.events.into_iter().next() {
                return kv.value;
            }
        }
    };
    assert_eq!(timeout(SOON, heard).await.expect("it hears"), "after");
}
