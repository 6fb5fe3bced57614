//! The move from the Go Curator, node by node, as docs/coming-from-go.md has it.
//!
//! On one node a peer that behaves as the Go instance does: it leads by Go's election value, which says nothing but the
//! node id, it is found by its node record, and whoever connects to it would be taken for the TLS peer, whoever they
//! call for. So nobody may. Then it stops, and ours starts on the node with what Go has left there: its files, and an
//! etcd on a Unix socket.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curator_election::LeaderValue;
use curator_harness::curator::{binary_from_env, ctl_from_env};
use curator_harness::process::run;
use curator_harness::{At, CuratorOptions, Mark, Role};
use curator_proto::common::NodeStatus;
use curator_proto::curator_api::UpdateNodeStatusRequest;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::management_api::GetRegisterTicketRequest;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::private::LeaderElectionValue;
use curator_service::{PrivateKey, certificate_pem, credential_names as names};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use tonic::{Code, Status};

use super::cluster::{TlsCluster, Who, bounded, has_sockets, text};
use crate::test_cluster::{SOON, TTL};

const ELECTION: &str = "namespaced:curator//leader";
/// Where the Go instance is: an address of loopback, since its port is always the same.
const GO: &str = "127.77.0.1";

/// What the owner is told through an instance.
fn ask(cast: &TlsCluster, instance: usize) -> Result<(), Status> {
    let mut management = ManagementClient::new(cast.channel(Who::Owner, cast.address(instance)));
    let asked = management.get_register_ticket(bounded(GetRegisterTicketRequest {}));
    cast.runtime.block_on(asked).map(drop)
}

/// The seed and the public key, as the original keeps them.
fn stored(key: &PrivateKey) -> Vec<u8> {
    let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
    [&pkcs8.secret_pkcs8_der()[16..48], key.public_key()].concat()
}

fn write(path: &Path, bytes: &[u8]) {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o400).open(path).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
}

/// Whether somebody has connected since the last time.
fn is_dialled(go: &TcpListener) -> bool {
    match go.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_node_moves_from_go_to_ours() {
    if !has_sockets() {
        println!("SKIPPED: etcd 3.4 listens on no Unix socket by its path, as the original's etcd does");
        return;
    }
    let mut cast = TlsCluster::new("tls-moving", |options| options);
    let go = TcpListener::bind((GO, curator_service::CURATOR_PORT)).unwrap();
    go.set_nonblocking(true).unwrap();
    let id = cast.nodes[0].id.clone();
    let report = UpdateNodeStatusRequest {
        node_id: id.clone(),
        status: Some(NodeStatus {
            external_address: GO.into(),
            ..NodeStatus::default()
        }),
    };
    let mut curator = CuratorClient::new(cast.channel(Who::Node(&cast.nodes[0]), cast.address(1)));
    cast.runtime
        .block_on(curator.update_node_status(bounded(report)))
        .unwrap();

    // Go runs on the first node, and leads.
    for instance in 0..3 {
        cast.stage.curators[instance].terminate().unwrap();
    }
    for instance in 0..3 {
        cast.stage.curators[instance].wait_exit(SOON).unwrap();
    }
    let value = LeaderElectionValue {
        node_id: id.clone(),
        ttl: 10,
        ..LeaderElectionValue::default()
    };
    let value = String::from_utf8(value.encode()).unwrap();
    let elect = ["elect", ELECTION, &value];
    let candidate = cast.stage.etcd.etcdctl_start("go", 0, &elect).unwrap();
    candidate
        .wait_line(Mark::START, SOON, |line| line.contains(ELECTION))
        .unwrap();
    for instance in [1, 2] {
        let mark = cast.stage.curators[instance].mark();
        cast.stage.curators[instance].restart().unwrap();
        cast.stage.curators[instance]
            .wait_for_role(mark, SOON, "following", |role| role.follows() == Some(&id))
            .unwrap();
    }

    // Ours follow, forward nothing to it, and say where it is.
    for instance in [1, 2] {
        let told = curator_harness::wait_until("the leader to be found", SOON, || {
            let status = ask(&cast, instance).expect_err("nobody of ours leads");
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            status
                .metadata()
                .contains_key("curator-leader-address")
                .then_some(status)
        })
        .unwrap();
        assert_eq!(told.metadata().get("curator-leader-id").unwrap(), &id);
        let address = format!("{GO}:{}", curator_service::CURATOR_PORT);
        assert_eq!(told.metadata().get("curator-leader-address").unwrap(), &address);
        assert!(told.message().contains("call it directly"), "{told}");
    }
    assert!(!is_dialled(&go), "whoever dials it is taken for the caller");
    drop(TcpStream::connect((GO, curator_service::CURATOR_PORT)).unwrap());
    assert!(is_dialled(&go), "it would have been seen");

    // Go is stopped: one of ours leads.
    let marks = cast.stage.marks();
    let lease = cast.stage.candidates()[0].lease;
    drop(candidate);
    cast.stage.etcd.lease_revoke(At::Any, lease).unwrap();
    cast.stage.next_leader(&[1, 2], &marks, SOON);
    drop(go);

    // Ours starts on that node, with what Go has left there.
    let left = cast.stage.scratch.path().join("left-by-go");
    fs::DirBuilder::new().create(&left).unwrap();
    write(&left.join(names::CA), &cast.ca);
    write(&left.join(names::GO_NODE), &cast.nodes[0].certificate());
    write(&left.join(names::GO_NODE_KEY), &stored(&cast.nodes[0].key));
    let socket = cast.stage.etcd.client_socket(0);
    let mut options = CuratorOptions::new(4, vec![socket]).leader_ttl(TTL);
    options.node_id.clone_from(&id);
    options.credentials = Some(left);
    let moved = cast.stage.start_program(&binary_from_env().unwrap(), options);
    cast.stage.curators[moved]
        .wait_for_role(Mark::START, SOON, "following", |role| role.follows().is_some())
        .unwrap();
    ask(&cast, moved).expect("it forwards to ours");

    // It takes over when the others go, and works.
    for instance in [1, 2] {
        cast.stage.curators[instance].terminate().unwrap();
        cast.stage.curators[instance].wait_exit(SOON).unwrap();
    }
    cast.stage.curators[moved]
        .wait_for_role(Mark::START, SOON, "leading", Role::is_leader)
        .unwrap();
    ask(&cast, moved).expect("it leads");

    // The owner comes with the key as Go's tool has written it.
    let directory = cast.stage.scratch.path();
    let (ca, certificate, key) = (
        directory.join("ca-for-owner.pem"),
        directory.join("owner.pem"),
        directory.join("owner-key.pem"),
    );
    write(&ca, certificate_pem(&cast.ca).as_bytes());
    write(&certificate, certificate_pem(&cast.owner.0).as_bytes());
    let label = "METROPOLIS INITIAL OWNER PRIVATE KEY";
    let body = STANDARD.encode(stored(&cast.owner.1));
    write(
        &key,
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").as_bytes(),
    );
    let contexts = directory.join("no-contexts");
    write(&contexts, b"");
    let mut command = Command::new(ctl_from_env().unwrap());
    command
        .args(["nodes", "list", "--endpoint", &cast.address(moved).to_string()])
        .args(["--ca", text(&ca), "--cert", text(&certificate), "--key", text(&key)])
        .env("CURATORCTL_CONFIG", &contexts);
    let listed = run(command, SOON).unwrap().success("curatorctl nodes list").unwrap();
    assert!(listed.contains(&id), "{listed}");
}
