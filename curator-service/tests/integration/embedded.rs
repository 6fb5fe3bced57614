//! An instance without etcd, killed and started again; and its state moved to a real etcd and back.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use curator_harness::curator::{binary_from_env, embedding_from_env};
use curator_harness::process::{Finished, run};
use curator_harness::{CuratorOptions, CuratorProcess, EtcdOptions, Mark, TempDir};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::update_node_labels_request::{Node, Pair};
use curator_proto::management_api::{GetNodesRequest, UpdateNodeLabelsRequest};
use curator_service::TEST_CALLER;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;

use crate::cluster::OWNER;
use crate::test_cluster::{SCAN, SOON, TTL, TestCluster};

fn curator(args: &[&str]) -> Finished {
    let mut command = Command::new(binary_from_env().unwrap());
    command.args(args);
    run(command, SOON).unwrap()
}

fn bootstrap(directory: &Path) -> String {
    let key = "01".repeat(32);
    let made = curator(&[
        "bootstrap",
        "--embedded",
        directory.to_str().unwrap(),
        "--node-public-key",
        &key,
        "--join-public-key",
        &key,
        "--owner-public-key",
        &key,
    ]);
    assert!(made.status.success(), "{}", made.stderr);
    format!("metropolis-{}", &key[..32])
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(TEST_CALLER, AsciiMetadataValue::from_static(OWNER));
    request
}

#[test]
fn what_was_acknowledged_survives_sigkill_in_the_middle_of_writes() {
    let scratch = TempDir::new("embedded").unwrap();
    let directory = scratch.path().join("state");
    let id = bootstrap(&directory);
    let mut options = CuratorOptions::new(1, Vec::new()).leader_ttl(TTL);
    options.node_id = id.clone();
    options.extra_args = vec!["--embedded".into(), directory.display().to_string()];
    let mut curator = CuratorProcess::start(&embedding_from_env().unwrap(), &scratch, options).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut acknowledged: BTreeMap<String, u32> = BTreeMap::new();
    let mut mark = Mark::START;
    for round in 0..4_u32 {
        let killed = Instant::now();
        curator
            .wait_for_role(mark, SOON, "the instance to lead", |role| role.is_leader())
            .unwrap();
        assert!(round == 0 || killed.elapsed() < TTL + SCAN + SOON / 4);
        let endpoint = Endpoint::from_shared(format!("http://{}", curator.address())).unwrap();
        let channel = runtime.block_on(async { endpoint.timeout(SOON).connect().await.unwrap() });
        // Some lanes, each of which counts up its own label, and stops at the first answer that does not come.
        let lanes: Vec<_> = (0..8)
            .map(|lane| {
                let (mut client, id) = (ManagementClient::new(channel.clone()), id.clone());
                runtime.spawn(async move {
                    let key = format!("lane-{lane}");
                    let mut last = None;
                    for number in 0_u32.. {
                        let number = round * 1_000_000 + number;
                        let message = UpdateNodeLabelsRequest {
                            node: Some(Node::Id(id.clone())),
                            upsert: vec![Pair {
                                key: key.clone(),
                                value: number.to_string(),
                            }],
                            delete: Vec::new(),
                        };
                        match client.update_node_labels(request(message)).await {
                            Ok(_) => last = Some(number),
                            Err(_) => break,
                        }
                    }
                    (key, last)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(700));
        mark = curator.mark();
        curator.kill().unwrap();
        for lane in lanes {
            let (key, last) = runtime.block_on(lane).unwrap();
            acknowledged.extend(last.map(|last| (key, last)));
        }
        assert_eq!(acknowledged.len(), 8, "each lane has got on: {acknowledged:?}");
        curator.restart().unwrap();
    }
    curator
        .wait_for_role(mark, SOON, "the instance to lead", |role| role.is_leader())
        .unwrap();
    let found = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", curator.address())).unwrap();
        let mut client = ManagementClient::new(endpoint.connect().await.unwrap());
        let nodes = client.get_nodes(request(GetNodesRequest::default())).await.unwrap();
        nodes.into_inner().message().await.unwrap().expect("the first node")
    });
    for pair in found.labels.unwrap().pairs {
        let (number, last) = (pair.value.parse::<u32>().unwrap(), acknowledged[&pair.key]);
        assert!(
            number == last || number == last + 1,
            "{}: {number} after {last}",
            pair.key
        );
    }
    println!("measured: {acknowledged:?} acknowledged, none lost");
    // Nobody else may have it meanwhile.
    let other = binary_from_env().unwrap();
    let mut second = Command::new(other);
    second
        .args(["serve", "--listen", "127.0.0.1:0", "--embedded"])
        .arg(&directory);
    let refused = run(second, SOON).unwrap();
    assert!(
        !refused.status.success() && refused.stderr.contains("is in use: stop the process"),
        "{}",
        refused.stderr
    );
}

#[test]
fn the_state_moves_to_etcd_and_back() {
    let etcd_options = EtcdOptions {
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    let stage = TestCluster::empty("transfer", etcd_options);
    let at = |name: &str| stage.scratch.path().join(name).display().to_string();
    let endpoints = stage.etcd.endpoints().join(",");
    bootstrap(Path::new(&at("state")));
    let ok = |args: &[&str]| {
        let done = curator(args);
        assert!(done.status.success(), "{args:?}: {}", done.stderr);
    };
    ok(&["export", "--embedded", &at("state"), "--out", &at("one")]);
    ok(&["import", &at("one"), "--etcd-endpoints", &endpoints]);
    ok(&["export", "--etcd-endpoints", &endpoints, "--out", &at("two")]);
    ok(&["import", "--embedded", &at("again"), &at("two")]);
    ok(&["export", "--embedded", &at("again"), "--out", &at("three")]);
    // All but when and at which revision each was made.
    let read = |name: &str| {
        let text = std::fs::read_to_string(at(name)).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("# ") && !line.starts_with("end "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(read("one") == read("two") && read("two") == read("three"));
    let refused = curator(&["import", &at("one"), "--etcd-endpoints", &endpoints]);
    assert!(refused.stderr.contains("exists in the store"), "{}", refused.stderr);
}
