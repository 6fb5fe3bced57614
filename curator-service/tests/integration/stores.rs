//! The suite that every store must pass, on a real etcd.

use std::sync::Arc;
use std::time::Duration;

use curator_election::StoreElection;
use curator_election::conformance::{self, backends};
use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_election::store::{Keys, Op, Range, Store, StoreError, Txn};
use curator_harness::EtcdOptions;

use crate::test_cluster::{SOON, TestCluster};

/// The number of streams of renewals that a member has opened.
const LEASE_STREAMS: &str = r#"grpc_server_started_total{grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"}"#;

#[test]
fn etcd_is_what_the_other_stores_are_held_against() {
    let options = EtcdOptions {
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    let stage = TestCluster::empty("stores", options);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let etcd = || EtcdStore::new(EtcdConfig::new(stage.etcd.endpoints())).unwrap();
        conformance::check_all(Arc::new(etcd()), "plain/").await;
        conformance::check_two(Arc::new(etcd()), Arc::new(etcd()), "two/").await;
        let election = || {
            Arc::new(StoreElection::new(
                Arc::new(etcd()),
                "/elections",
                Duration::from_secs(1),
            ))
        };
        backends::check_all(election(), election()).await;
        let namespaced = Namespaced::new(etcd(), "namespaced:curator".parse().unwrap());
        conformance::check_all(Arc::new(namespaced), "/within/").await;
    });
}

/// Renewals share a stream, which a restart of the member breaks: the next renewal uses a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_renewed_in_one_stream_and_after_a_restart_in_another() {
    let options = EtcdOptions {
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    let stage = tokio::task::block_in_place(|| TestCluster::empty("renewals", options));
    let store = EtcdStore::new(EtcdConfig::new(stage.etcd.endpoints())).unwrap();
    let lease = store.grant(Duration::from_secs(30)).await.unwrap();
    for _ in 0..20 {
        assert_eq!(store.keep_alive(lease.id, 0).await.unwrap(), lease.ttl);
    }
    let started = tokio::task::block_in_place(|| stage.etcd.metric(0, LEASE_STREAMS, SOON)).unwrap();
    assert_eq!(started, 1.0, "streams of renewals");
    tokio::task::block_in_place(|| {
        stage.etcd.restart(0).unwrap();
        stage.etcd.wait_healthy(SOON).unwrap();
    });
    // The connection is found broken first.
    let renewed = async {
        while store.keep_alive(lease.id, 0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, renewed).await.unwrap();
    // Somebody else revokes it: the stream in which it was renewed says so.
    EtcdStore::new(EtcdConfig::new(stage.etcd.endpoints()))
        .unwrap()
        .revoke(lease.id)
        .await
        .unwrap();
    let gone = store.keep_alive(lease.id, 0).await.unwrap_err();
    assert!(matches!(gone, StoreError::LeaseNotFound { .. }), "{gone}");
    let gone = store.keep_alive(lease.id, 0).await.unwrap_err();
    assert!(matches!(gone, StoreError::LeaseNotFound { .. }), "{gone}");
}

/// A leader that steps down must not keep its key for as long as a member that hangs does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_is_revoked_at_another_member_while_the_first_one_hangs() {
    let stage = tokio::task::block_in_place(|| TestCluster::empty("revocation", EtcdOptions::default()));
    tokio::task::block_in_place(|| stage.etcd.move_leader(1)).unwrap();
    let config = EtcdConfig::new(stage.etcd.endpoints());
    let timeout = config.call_timeout;
    let store = EtcdStore::new(config).unwrap();
    let lease = store.grant(Duration::from_secs(30)).await.unwrap();
    let put = Op::Put {
        key: "k".into(),
        value: "v".into(),
        lease: Some(lease.id),
    };
    store.txn(Txn::default().then(vec![put])).await.unwrap();
    tokio::task::block_in_place(|| stage.etcd.pause(0)).unwrap();
    let began = std::time::Instant::now();
    store.revoke(lease.id).await.unwrap();
    let took = began.elapsed();
    assert!(took < timeout / 2, "{took:?}");
    assert_eq!(store.range(Range::all(Keys::one("k"))).await.unwrap().kvs, []);
    tokio::task::block_in_place(|| stage.etcd.resume(0)).unwrap();
}
