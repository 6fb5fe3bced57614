//! The suite that every store must pass, on a real etcd.

use std::sync::Arc;
use std::time::Duration;

use curator_election::StoreElection;
use curator_election::conformance::{self, backends};
use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_harness::EtcdOptions;

use crate::test_cluster::TestCluster;

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
