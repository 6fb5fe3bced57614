//! The members of a real etcd, read and changed.

use std::time::Duration;

use curator_harness::EtcdOptions;
use curator_service::{Consensus, EtcdConsensus};

use crate::test_cluster::TestCluster;

#[test]
fn a_learner_is_added_and_removed() {
    let stage = TestCluster::empty("membership", EtcdOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let namespace = "namespaced:curator".parse().unwrap();
        let consensus = EtcdConsensus::new(&stage.etcd.endpoints(), namespace).unwrap();
        let membership = consensus.membership();
        let before = membership.members().await.unwrap();
        assert_eq!(before.len(), 3);
        assert!(before.iter().all(|member| !member.learner && !member.name.is_empty()));
        // etcd refuses while it is not sure of its members, which it may not be right after its start.
        let url = "https://metropolis-00:7834";
        let mut last = Ok(());
        for _ in 0..50 {
            last = membership.add_learner(url).await;
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        last.unwrap();
        let members = membership.members().await.unwrap();
        let learner = members.iter().find(|member| member.learner).unwrap();
        assert_eq!((members.len(), learner.node_id().as_str()), (4, "metropolis-00"));
        // It has not even started.
        membership.promote(learner.id).await.unwrap_err();
        membership.remove(learner.id).await.unwrap();
        assert_eq!(membership.members().await.unwrap(), before);
    });
}
