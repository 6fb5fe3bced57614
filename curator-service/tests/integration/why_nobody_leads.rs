//! What is told while nobody leads: the reason, each kind of it once at WARN, and a call's code.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use curator_harness::{At, CuratorOptions, EtcdOptions, Mark};
use curator_proto::management_api::GetClusterInfoRequest;
use curator_proto::management_api::management_client::ManagementClient;
use tonic::{Code, Request};

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

const ELECTION: &str = "namespaced:curator//leader";

/// What a caller of an instance is told.
fn refusal(stage: &TestCluster, curator: usize) -> tonic::Status {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = format!("http://{}", stage.curators[curator].address());
    runtime.block_on(async {
        let mut client = ManagementClient::connect(address).await.unwrap();
        let mut request = Request::new(GetClusterInfoRequest {});
        request.set_timeout(Duration::from_millis(500));
        client.get_cluster_info(request).await.expect_err("nobody leads")
    })
}

/// Waits for a warning with these words in its reason; then as many warnings had them.
fn warned(stage: &TestCluster, curator: usize, since: Mark, words: &str) -> usize {
    let tells = |event: &curator_harness::Event| {
        event.text_of("level") == Some("WARN") && event.text_of("reason").is_some_and(|reason| reason.contains(words))
    };
    let curator = &stage.curators[curator];
    curator.wait_for(since, SOON, words, tells).unwrap();
    curator.events_since(since).iter().filter(|event| tells(event)).count()
}

#[test]
fn user_who_may_only_read_is_told_to_be_one() {
    let mut stage = TestCluster::empty("reads-only", EtcdOptions::default());
    stage.etcd.add_user("reader", "right", &[]).unwrap();
    let read = [
        "role",
        "grant-permission",
        "--prefix=true",
        "reader",
        "read",
        "namespaced:",
    ];
    stage.etcd.etcdctl(At::Any, &read, SOON).unwrap();
    stage.etcd.enable_auth("root").unwrap();
    let password = stage.scratch.path().join("reader.password");
    fs::write(&password, "right\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let reader = stage.start(0, Reach::All, |options| CuratorOptions {
        extra_args: vec![
            "--etcd-user".to_owned(),
            "reader".to_owned(),
            "--etcd-password-file".to_owned(),
            password.display().to_string(),
        ],
        ..options
    });
    let start = Mark::default();
    warned(&stage, reader, start, "etcd denied permission to its user");
    let refused = refusal(&stage, reader);
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("permission denied by etcd"), "{refused}");
    // It goes on by itself once it may write.
    let write = [
        "role",
        "grant-permission",
        "--prefix=true",
        "reader",
        "readwrite",
        "namespaced:",
    ];
    stage.etcd.etcdctl(At::Any, &write, SOON).unwrap();
    assert_eq!(stage.agreed(SOON), reader);
    // Some attempts were refused meanwhile, and it was said once.
    assert_eq!(warned(&stage, reader, start, "etcd denied permission to its user"), 1);
}

#[test]
fn leader_whose_value_cannot_be_read_is_told_of() {
    let mut stage = TestCluster::empty("undecodable", EtcdOptions::default());
    let other = stage
        .etcd
        .etcdctl_start("elect", 2, &["elect", ELECTION, "garbage"])
        .unwrap();
    other
        .wait_line(Mark::START, SOON, |line| line.contains(ELECTION))
        .unwrap();
    let waiting = stage.start(0, Reach::All, |options| options);
    let start = Mark::default();
    assert_eq!(warned(&stage, waiting, start, "cannot be read"), 1);
    let refused = refusal(&stage, waiting);
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("cannot be decoded"), "{refused}");
    // Once that one is gone, the next in the queue leads.
    let lease = stage.candidates()[0].lease;
    drop(other);
    stage.etcd.lease_revoke(At::Any, lease).unwrap();
    assert_eq!(stage.agreed(SOON), waiting);
}

#[test]
fn etcd_that_is_gone_is_told_of_and_so_is_a_lost_quorum() {
    let (stage, leader) = TestCluster::elected("etcd-goes-away", Reach::All, TTL, EtcdOptions::default());
    let all_warned = |marks: Vec<Mark>, words: &str| {
        for (curator, mark) in marks.iter().enumerate() {
            assert_eq!(warned(&stage, curator, *mark, words), 1);
        }
    };
    let told = |words: &str| {
        let refused = refusal(&stage, leader);
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    };
    // One of three is there, and can decide nothing.
    let marks = stage.marks();
    for member in 1..stage.etcd.len() {
        stage.etcd.kill(member).unwrap();
    }
    all_warned(marks, "has no quorum");
    told("etcd has no quorum");
    let marks = stage.marks();
    stage.etcd.kill(0).unwrap();
    all_warned(marks, "store unreachable");
    told("etcd is unreachable");
    stage.etcd.start_all().unwrap();
    stage.agreed(2 * SOON);
}
