//! Endpoints of several etcd clusters behind one list: one cluster is used, or none.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::store::{Keys, Op, Range, RefusalKind, Store, StoreError, Txn};
use curator_harness::curator::binary_from_env;
use curator_harness::proxy::address_of;
use curator_harness::{
    At, CuratorOptions, CuratorProcess, EtcdBinaries, EtcdCluster, EtcdOptions, Event, Mark, Role, TempDir,
};

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

fn alone(scratch: &TempDir, number: usize) -> EtcdCluster {
    let options = EtcdOptions {
        name: format!("alone-{number}"),
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), scratch, options).unwrap()
}

#[test]
fn instances_whose_endpoints_are_three_clusters_never_lead_and_say_why() {
    let scratch = TempDir::new("three-clusters").unwrap();
    let etcds: Vec<_> = (0..3).map(|number| alone(&scratch, number)).collect();
    let curators: Vec<_> = (0..3)
        .map(|first| {
            let endpoints = (0..3).map(|next| etcds[(first + next) % 3].client_url(0)).collect();
            let options = CuratorOptions::new(u32::try_from(first + 1).unwrap(), endpoints);
            CuratorProcess::start(&binary_from_env().unwrap(), &scratch, options).unwrap()
        })
        .collect();
    for curator in &curators {
        let start = Mark::default();
        curator
            .wait_for(start, SOON, "the reason", |event| {
                event
                    .text_of("reason")
                    .is_some_and(|reason| reason.contains("no etcd cluster has more than half of the endpoints"))
            })
            .unwrap();
    }
    for curator in &curators {
        let led = curator
            .roles_since(Mark::default())
            .iter()
            .any(|change| change.role.is_leader());
        assert!(!led, "{} led", curator.name());
    }
    for etcd in &etcds {
        assert_eq!(etcd.revision(At::Any).unwrap(), 1, "something was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn member_of_another_cluster_is_not_used() {
    let scratch = TempDir::new("foreign-member").unwrap();
    let (foreign, etcd) = tokio::task::block_in_place(|| {
        let foreign = alone(&scratch, 0);
        let etcd = EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), &scratch, EtcdOptions::default()).unwrap();
        (foreign, etcd)
    });
    // First in the list, so that it is what would be asked.
    let endpoints = vec![foreign.client_url(0), etcd.client_url(0), etcd.client_url(1)];
    let store = EtcdStore::new(EtcdConfig::new(endpoints)).unwrap();
    for number in 0..5 {
        let key = format!("k{number}");
        store
            .txn(Txn::default().then(vec![Op::put(key.clone(), "v")]))
            .await
            .unwrap();
        assert_eq!(store.range(Range::all(Keys::one(key))).await.unwrap().kvs.len(), 1);
    }
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    let (mut renewed, mut ignored) = (0, 0);
    for attempt in 0..6 {
        match store.keep_alive(lease.id, attempt).await {
            Ok(_) => renewed += 1,
            Err(StoreError::Unreachable { reason }) if reason.contains("is a member of etcd cluster") => {
                ignored += 1;
            }
            // That lease is not one of that cluster's.
            Err(error) => panic!("attempt {attempt}: {error}"),
        }
    }
    assert_eq!((renewed, ignored), (4, 2));
    let statuses = store.endpoints().await;
    let told = statuses[0].1.as_ref().unwrap_err().to_string();
    assert!(told.contains("is a member of etcd cluster"), "{told}");
    assert!(statuses[1].1.is_ok() && statuses[2].1.is_ok());
    tokio::task::block_in_place(|| {
        assert_eq!(foreign.revision(At::Any).unwrap(), 1, "something was written there");
    });
}

/// The endpoint that is warned of.
fn warned_of(event: &Event) -> Option<&str> {
    let of_another = |message: &str| message.contains("is a member of another etcd cluster");
    let warned = event.text_of("level") == Some("WARN") && event.message().is_some_and(of_another);
    event.text_of("endpoint").filter(|_| warned)
}

#[test]
fn member_restored_as_a_cluster_of_its_own_is_not_used_and_is_named() {
    let (stage, leader) = TestCluster::elected("restored-alone", Reach::All, TTL, EtcdOptions::default());
    let restored = (leader + 1) % 3;
    let snapshot = stage.scratch.path().join("snapshot");
    stage.etcd.snapshot(At::Member(leader), &snapshot).unwrap();
    let (marks, before) = (stage.marks(), stage.etcd.revision(At::Member(leader)).unwrap());
    stage.etcd.kill(restored).unwrap();
    stage.etcd.restore_alone(restored, &snapshot).unwrap();
    stage.etcd.start_member(restored).unwrap();
    let url = stage.etcd.client_url(restored);
    // The one that would have used it.
    let of_it = |event: &Event| warned_of(event) == Some(url.as_str());
    stage.curators[restored]
        .wait_for(marks[restored], SOON, "the warning", of_it)
        .unwrap();
    // Leaders come and go, and none of them in the other cluster, which has the keys of all three instances.
    for _ in 0..2 {
        let leader = stage.agreed(SOON);
        let marks = stage.marks();
        stage.curators[leader].pause().unwrap();
        let others: Vec<_> = (0..3).filter(|curator| *curator != leader).collect();
        stage.next_leader(&others, &marks, 2 * SOON);
        stage.curators[leader].resume().unwrap();
    }
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
    let own = stage.etcd.get_prefix(At::Member(restored), "").unwrap();
    let written: Vec<_> = own.iter().filter(|key| key.mod_revision > before).collect();
    assert!(written.is_empty(), "it was used: {written:?}");
    let curator = &stage.curators[restored];
    let told = curator.events_since(marks[restored]);
    let of: Vec<_> = told.iter().filter_map(warned_of).collect();
    assert_eq!(of, [url.as_str()], "once");
    let (_, page) = curator.observed("/status.json", SOON).unwrap();
    assert!(
        page.contains(&format!("\"foreign_etcd_endpoints\":[\"{url}\"]")),
        "{page}"
    );
    let (_, metrics) = curator.observed("/metrics", SOON).unwrap();
    assert!(metrics.contains("curator_etcd_foreign_endpoints 1"), "{metrics}");
}

#[test]
fn file_pins_the_cluster_across_restarts() {
    let scratch = TempDir::new("pinned").unwrap();
    let etcds = [alone(&scratch, 0), alone(&scratch, 1)];
    let file = scratch.path().join("etcd-cluster");
    let start = |number: u32, etcd: &EtcdCluster| {
        let mut options = CuratorOptions::new(number, vec![etcd.client_url(0)]);
        options.extra_args = vec!["--etcd-cluster-file".to_owned(), file.display().to_string()];
        CuratorProcess::start(&binary_from_env().unwrap(), &scratch, options).unwrap()
    };
    let first = start(1, &etcds[0]);
    first
        .wait_for_role(Mark::START, SOON, "leading", Role::is_leader)
        .unwrap();
    first.terminate().unwrap();
    first.wait_exit(SOON).unwrap();
    let id = std::fs::read_to_string(&file).unwrap();
    // Another etcd at what is named, as after a disk that was not mounted.
    let second = start(2, &etcds[1]);
    let told = format!("this instance uses cluster {}", id.trim());
    second
        .wait_for(Mark::START, SOON, "the refusal", |event| {
            event
                .text_of("reason")
                .is_some_and(|reason| reason.contains(&told) && reason.contains(&format!("remove {}", file.display())))
        })
        .unwrap();
    assert_eq!(etcds[1].revision(At::Any).unwrap(), 1, "something was written");
    std::fs::remove_file(&file).unwrap();
    let third = start(3, &etcds[1]);
    third
        .wait_for_role(Mark::START, SOON, "leading", Role::is_leader)
        .unwrap();
    assert_ne!(std::fs::read_to_string(&file).unwrap(), id);
}

/// A way to `target` from one address, until it is stopped.
pub(crate) fn way(from: &TcpListener, target: SocketAddr) -> tokio::task::JoinHandle<()> {
    let from = from.try_clone().unwrap();
    tokio::spawn(async move {
        from.set_nonblocking(true).unwrap();
        let from = tokio::net::TcpListener::from_std(from).unwrap();
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = from.accept().await {
            connections.spawn(async move {
                let mut server = tokio::net::TcpStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_that_has_become_another_cluster_is_refused() {
    let scratch = TempDir::new("other-cluster").unwrap();
    let etcds = tokio::task::block_in_place(|| [alone(&scratch, 0), alone(&scratch, 1)]);
    let targets = etcds.each_ref().map(|etcd| address_of(&etcd.client_url(0)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = EtcdStore::new(EtcdConfig::new(vec![format!(
        "http://{}",
        listener.local_addr().unwrap()
    )]))
    .unwrap();
    let first = way(&listener, targets[0]);
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    first.abort();
    // Its connections are closed with it.
    assert!(first.await.unwrap_err().is_cancelled());
    let _second = way(&listener, targets[1]);
    // Calls fail until the connection is made anew.
    let refused = loop {
        match store.range(Range::all(Keys::one("k"))).await {
            Err(StoreError::Unreachable { .. } | StoreError::Unknown { .. }) => {}
            said => break said.unwrap_err(),
        }
    };
    assert_eq!(refused.refusal(), Some(RefusalKind::WrongCluster), "{refused}");
    let refused = store.keep_alive(lease.id, 0).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(RefusalKind::WrongCluster), "{refused}");
}
