//! What a host does to an instance: names whose addresses change, addresses of one link, a disk without space. What
//! takes a mount is done in a mount namespace, which needs root; elsewhere it is skipped, aloud.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::store::{Keys, Op, Range, Store, Txn};
use curator_harness::curator::{binary_from_env, embedding_from_env};
use curator_harness::process::run;
use curator_harness::proxy::address_of;
use curator_harness::{
    Capture, CuratorOptions, CuratorProcess, EtcdBinaries, EtcdCluster, EtcdOptions, Mark, ProcessSpec, Recorded, Role,
    TempDir,
};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::update_node_labels_request::{Node, Pair};
use curator_proto::management_api::{GetNodesRequest, UpdateNodeLabelsRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{OWNER, request};
use crate::one_cluster::way;
use crate::test_cluster::{SOON, TTL};

/// Mounts that nobody sees but those who are started within.
struct Mounts {
    holder: Recorded,
    scratch: PathBuf,
}

impl Mounts {
    /// `None`, aloud, where there can be none.
    fn new(scratch: &TempDir, mount: &str) -> Option<Self> {
        let spec = ProcessSpec::new("mounts", "unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                &format!("{mount} && echo ready && exec sleep 1000000"),
            ])
            .capture(Capture::Stdout);
        let holder = match Recorded::start(&spec, scratch) {
            Ok(holder) => holder,
            Err(error) => {
                println!("SKIPPED: there can be no mounts here: {}", error.chain());
                return None;
            }
        };
        let ready = holder.wait_line(Mark::START, SOON, |line| line == "ready");
        if let Err(error) = ready {
            println!("SKIPPED: there can be no mounts here: {}", error.chain());
            return None;
        }
        Some(Self {
            holder,
            scratch: scratch.path().to_owned(),
        })
    }

    fn pid(&self) -> u32 {
        self.holder.process.pid()
    }

    /// A program that runs another one within.
    fn within(&self, program: &Path) -> PathBuf {
        let name = program.file_name().unwrap().to_string_lossy();
        let path = self.scratch.join(format!("{name}-within"));
        let text = format!(
            "#!/bin/sh\nexec nsenter --mount=/proc/{}/ns/mnt -- {} \"$@\"\n",
            self.pid(),
            program.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// What a path within is here.
    fn seen(&self, path: &Path) -> PathBuf {
        let mut seen = PathBuf::from(format!("/proc/{}/root", self.pid()));
        seen.extend(path.components().skip(1));
        seen
    }
}

fn one_member(scratch: &TempDir) -> EtcdCluster {
    let options = EtcdOptions {
        members: 1,
        peer_proxies: false,
        ..EtcdOptions::default()
    };
    EtcdCluster::start(&EtcdBinaries::from_env().unwrap(), scratch, options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn name_whose_address_changes_is_looked_up_again() {
    let scratch = TempDir::new("renumbered").unwrap();
    let hosts = scratch.path().join("hosts");
    fs::write(&hosts, "127.0.0.2 etcd.test\n").unwrap();
    let mount = format!("mount --bind {} /etc/hosts", hosts.display());
    let Some(mounts) = tokio::task::block_in_place(|| Mounts::new(&scratch, &mount)) else {
        return;
    };
    let etcd = tokio::task::block_in_place(|| one_member(&scratch));
    let target = address_of(&etcd.client_url(0)).unwrap();
    let first = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.3", port)).unwrap();
    let there = way(&first, target);
    let curator = tokio::task::block_in_place(|| {
        let program = mounts.within(&binary_from_env().unwrap());
        let options = CuratorOptions::new(1, vec![format!("http://etcd.test:{port}")]).leader_ttl(TTL);
        let curator = CuratorProcess::start(&program, &scratch, options).unwrap();
        curator
            .wait_for_role(Mark::START, SOON, "leading", Role::is_leader)
            .unwrap();
        curator
    });
    let moved = curator.mark();
    there.abort();
    assert!(there.await.unwrap_err().is_cancelled());
    drop(first);
    fs::write(&hosts, "127.0.0.3 etcd.test\n").unwrap();
    let lost = |role: &Role| !role.is_leader();
    tokio::task::block_in_place(|| curator.wait_for_role(moved, SOON, "its end", lost).unwrap());
    let back = curator.mark();
    let there = way(&second, target);
    tokio::task::block_in_place(|| {
        curator
            .wait_for_role(back, SOON, "leading at the new address", Role::is_leader)
            .unwrap();
        drop(curator);
    });
    there.abort();
}

/// An address of one link, of this host.
fn link_local() -> Option<(Ipv6Addr, u32, String)> {
    let text = fs::read_to_string("/proc/net/if_inet6").ok()?;
    text.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [address, index, _, scope, _, name] = words[..] else {
            return None;
        };
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let index = u32::from_str_radix(index, 16).ok()?;
        (scope == "20").then(|| (address, index, name.to_owned()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn address_of_one_link_is_reached_with_its_zone() {
    let Some((address, index, name)) = link_local() else {
        println!("SKIPPED: this host has no IPv6 address of one link");
        return;
    };
    let scratch = TempDir::new("zone").unwrap();
    let etcd = tokio::task::block_in_place(|| one_member(&scratch));
    let listener = TcpListener::bind(SocketAddrV6::new(address, 0, 0, index)).unwrap();
    let port = listener.local_addr().map(|address: SocketAddr| address.port()).unwrap();
    let there = way(&listener, address_of(&etcd.client_url(0)).unwrap());
    let store = EtcdStore::new(EtcdConfig::new(vec![format!("http://[{address}%{name}]:{port}")])).unwrap();
    store.txn(Txn::default().then(vec![Op::put("k", "v")])).await.unwrap();
    assert_eq!(store.range(Range::all(Keys::one("k"))).await.unwrap().kvs.len(), 1);
    there.abort();
}

async fn label(channel: &Channel, node: &str, number: u32) -> Result<(), Status> {
    let message = UpdateNodeLabelsRequest {
        node: Some(Node::Id(node.to_owned())),
        upsert: vec![Pair {
            key: "number".to_owned(),
            value: number.to_string(),
        }],
        delete: Vec::new(),
    };
    let mut client = ManagementClient::new(channel.clone());
    client.update_node_labels(request(message, OWNER)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_store_without_space_ends_the_instance_and_loses_nothing() {
    let scratch = TempDir::new("full-disk").unwrap();
    let disk = scratch.dir("disk").unwrap();
    let mount = format!("mount -t tmpfs -o size=4m none {}", disk.display());
    let Some(mounts) = tokio::task::block_in_place(|| Mounts::new(&scratch, &mount)) else {
        return;
    };
    let (state, key) = (disk.join("state"), "01".repeat(32));
    let node = format!("metropolis-{}", &key[..32]);
    let start = || {
        let mut making = Command::new(mounts.within(&binary_from_env().unwrap()));
        making.args(["bootstrap", "--embedded"]).arg(&state);
        making.args([
            "--node-public-key",
            &key,
            "--join-public-key",
            &key,
            "--owner-public-key",
            &key,
        ]);
        run(making, SOON).unwrap().success("bootstrap").unwrap();
        let mut options = CuratorOptions::new(1, Vec::new()).leader_ttl(TTL);
        options.node_id.clone_from(&node);
        options.extra_args = vec!["--embedded".into(), state.display().to_string()];
        let program = mounts.within(&embedding_from_env().unwrap());
        let curator = CuratorProcess::start(&program, &scratch, options).unwrap();
        curator
            .wait_for_role(Mark::START, SOON, "leading", Role::is_leader)
            .unwrap();
        curator
    };
    let mut curator = tokio::task::block_in_place(start);
    let connect = async |curator: &CuratorProcess| {
        let endpoint = Endpoint::from_shared(format!("http://{}", curator.address())).unwrap();
        endpoint.timeout(SOON).connect().await.unwrap()
    };
    let channel = connect(&curator).await;
    label(&channel, &node, 0).await.unwrap();
    let filler = mounts.seen(&disk.join("filler"));
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
    let mut last = 0;
    let refused = loop {
        match label(&channel, &node, last + 1).await {
            Ok(()) => last += 1,
            Err(status) => break status,
        }
    };
    println!("measured: {last} changes fitted; then {refused}");
    let mark = tokio::task::block_in_place(|| {
        let ended = curator.wait_exit(SOON).unwrap();
        assert!(!ended.success(), "{ended}");
        let told = curator.events_since(Mark::START);
        let stopped = |event: &curator_harness::Event| event.text.contains("the store has stopped");
        assert!(told.iter().any(stopped), "it does not say why it ends");
        fs::remove_file(&filler).unwrap();
        drop(file);
        let mark = curator.mark();
        curator.restart().unwrap();
        mark
    });
    tokio::task::block_in_place(|| {
        curator
            .wait_for_role(mark, SOON, "leading again", Role::is_leader)
            .unwrap()
    });
    let channel = connect(&curator).await;
    let mut client = ManagementClient::new(channel.clone());
    let nodes = client
        .get_nodes(request(GetNodesRequest::default(), OWNER))
        .await
        .unwrap();
    let found = nodes.into_inner().message().await.unwrap().expect("the first node");
    let labels = found.labels.unwrap().pairs;
    let number = labels
        .iter()
        .find(|pair| pair.key == "number")
        .unwrap()
        .value
        .parse::<u32>();
    let number = number.unwrap();
    assert!(number == last || number == last + 1, "{number} after {last}");
    label(&channel, &node, last + 2).await.unwrap();
    tokio::task::block_in_place(|| drop(curator));
}
