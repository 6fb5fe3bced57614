//! Clients that others wrote make the owner's calls, over TLS and without, through each instance and across changes of
//! the leader.
//!
//! Those of our own on others' libraries lie in `tools/clients`. In the mode `calls` each asks for the cluster and its
//! members of the consensus, for the ticket, labels the first member with its own name, and is refused a heartbeat,
//! since it is no node. In the mode `plain` it asks who leads, and is refused. In the mode `watch` it watches all
//! nodes, tells of each label `seen` and of the end of each watch, and watches again.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use curator_harness::foreign::Clients;
use curator_harness::process::run;
use curator_harness::{Capture, EtcdOptions, Mark, ProcessSpec, Recorded, TempDir};
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::update_node_labels_request::Pair;
use curator_proto::management_api::{UpdateNodeLabelsRequest, update_node_labels_request};
use curator_service::certificate_pem;

use super::cluster::{TlsCluster, Who, bounded};
use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

/// What `cargo xtask integration` has brought; nothing, said aloud, where nobody has.
fn brought() -> Option<Clients> {
    let clients = Clients::from_env();
    if clients.is_none() {
        println!("SKIPPED: nobody says where clients that others wrote are");
    }
    clients
}

/// The descriptors of all that is called.
fn descriptors(scratch: &TempDir) -> PathBuf {
    let path = scratch.path().join("descriptors.bin");
    std::fs::write(&path, curator_proto::FILE_DESCRIPTOR_SET).unwrap();
    path
}

/// An empty message as gRPC frames it.
fn empty_message(scratch: &TempDir) -> PathBuf {
    let path = scratch.path().join("empty-message");
    std::fs::write(&path, [0; 5]).unwrap();
    path
}

/// The files that a client of the owner needs.
struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    descriptors: PathBuf,
    message: PathBuf,
}

impl Files {
    fn of(cast: &TlsCluster) -> Self {
        let directory = cast.stage.scratch.path();
        let (ca, certificate, key) = (
            directory.join("cluster-ca.pem"),
            directory.join("owner.pem"),
            directory.join("owner-key.pem"),
        );
        std::fs::write(&ca, certificate_pem(&cast.ca)).unwrap();
        std::fs::write(&certificate, certificate_pem(&cast.owner.0)).unwrap();
        std::fs::write(&key, cast.owner.1.to_pem().as_bytes()).unwrap();
        Self {
            ca,
            certificate,
            key,
            descriptors: descriptors(&cast.stage.scratch),
            message: empty_message(&cast.stage.scratch),
        }
    }

    /// The arguments of a client of ours.
    fn arguments(&self, mode: &str, at: SocketAddr, name: &str) -> Vec<OsString> {
        let mut arguments = vec![mode.into(), at.to_string().into(), self.descriptors.clone().into()];
        arguments.extend([&self.ca, &self.certificate, &self.key].map(|path| path.clone().into()));
        arguments.push(name.into());
        arguments
    }
}

fn said(what: &str, mut command: Command, arguments: &[OsString]) -> String {
    command.args(arguments);
    run(command, 2 * SOON).unwrap().success(what).unwrap()
}

/// The arguments of curl for an empty message.
fn curl(mut first: Vec<OsString>, message: &Path, url: &str) -> Vec<OsString> {
    let body = format!("@{}", message.display());
    let rest = [
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--output",
        "/dev/null",
        "--dump-header",
        "-",
    ];
    first.extend(rest.map(OsString::from));
    for header in ["content-type: application/grpc", "te: trailers"] {
        first.extend(["--header", header].map(OsString::from));
    }
    first.extend(["--data-binary", &body, url].map(OsString::from));
    first
}

#[test]
fn clients_that_others_wrote_make_the_owners_calls_through_each_instance() {
    let Some(clients) = brought() else { return };
    let cast = TlsCluster::new("tls-clients", |options| options);
    let files = Files::of(&cast);
    for instance in cast.leader_and_follower() {
        let (at, name) = (cast.address(instance), cast.nodes[instance].id.as_str());
        for (client, program, first) in clients.ours() {
            let mut command = Command::new(program);
            command.args(first);
            let text = said(client, command, &files.arguments("calls", at, name));
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(
                lines[..3],
                ["cluster-info 3", "nodes 3", "ticket 34"],
                "{client}: {text}"
            );
            assert!(lines[3].starts_with("labelled metropolis-"), "{client}: {text}");
            assert_eq!(lines[4..], ["heartbeat 7"], "{client}: {text}");
            println!("{client} made the owner's calls at instance {instance}");
        }
        grpcurl(&clients, &files, at, name);
        let address = at.to_string();
        match clients.program("curl") {
            Some(command) => {
                let port = at.port();
                let mut arguments: Vec<OsString> = ["--http2", "--connect-to"].map(OsString::from).into();
                arguments.push(format!("{name}:{port}:{address}").into());
                for (flag, path) in [
                    ("--cacert", &files.ca),
                    ("--cert", &files.certificate),
                    ("--key", &files.key),
                ] {
                    arguments.extend([flag.into(), path.clone().into_os_string()]);
                }
                let url = format!("https://{name}:{port}/metropolis.proto.api.Management/GetClusterInfo");
                let headers = said("curl", command, &curl(arguments, &files.message, &url));
                assert!(headers.contains("grpc-status: 0"), "{headers}");
            }
            None => println!("SKIPPED: there is no curl here"),
        }
        match clients.program("h2load") {
            Some(mut command) => {
                command.args([
                    "-n",
                    "400",
                    "-c",
                    "4",
                    "-m",
                    "20",
                    "-H",
                    "content-type: application/grpc",
                ]);
                let url =
                    format!("https://{address}/metropolis.node.core.curator.proto.api.CuratorLocal/GetCACertificate");
                let data = OsString::from(format!("--data={}", files.message.display()));
                let text = said("h2load", command, &[data, url.into()]);
                assert!(text.contains("400 succeeded, 0 failed"), "{text}");
            }
            None => println!("SKIPPED: there is no h2load here"),
        }
    }
}

/// Finds by reflection what it calls.
fn grpcurl(clients: &Clients, files: &Files, at: SocketAddr, name: &str) {
    let Some(mut command) = clients.program("grpcurl") else {
        println!("SKIPPED: there is no grpcurl here");
        return;
    };
    for (flag, path) in [
        ("-cacert", &files.ca),
        ("-cert", &files.certificate),
        ("-key", &files.key),
    ] {
        command.arg(flag).arg(path);
    }
    command.args([
        "-servername",
        name,
        "-d",
        r#"{"filter": "has(node.roles.consensus_member)"}"#,
    ]);
    let method = "metropolis.proto.api.Management/GetNodes";
    let text = said("grpcurl", command, &[at.to_string().into(), method.into()]);
    assert_eq!(text.matches("\"consensusMember\"").count(), 3, "{text}");
}

#[test]
fn clients_that_others_wrote_come_back_when_the_leader_is_killed() {
    let Some(clients) = brought() else { return };
    let mut cast = TlsCluster::new("tls-clients-watch", |options| options);
    let files = Files::of(&cast);
    let [leader, follower] = cast.leader_and_follower();
    let mut watching = Vec::new();
    for instance in [leader, follower] {
        for (client, program, first) in clients.ours() {
            let at = cast.address(instance);
            let arguments = files.arguments("watch", at, &cast.nodes[instance].id);
            let first: Vec<OsString> = first.into_iter().map(OsString::from).collect();
            let spec = ProcessSpec::new(format!("{client}-at-{instance}"), program)
                .args([first, arguments].concat())
                .capture(Capture::Stdout);
            let recorded = Recorded::start(&spec, &cast.stage.scratch).unwrap();
            recorded
                .wait_line(Mark::START, SOON, |line| line == "watching")
                .unwrap();
            watching.push((client, recorded));
        }
    }
    let marks = cast.stage.marks();
    cast.stage.silence(leader);
    cast.stage.curators[leader].kill().unwrap();
    let others = cast.stage.others(leader);
    cast.stage.next_leader(&others, &marks, SOON);
    // Each stream ends, whether it was the leader's own or went to it through a follower.
    for (client, recorded) in &watching {
        let lost = recorded.wait_line(Mark::START, SOON, |line| line.starts_with("lost"));
        assert_eq!(lost.unwrap().text, "lost 14", "{client}");
    }
    cast.stage.curators[leader].restart().unwrap();
    cast.stage.agreed(SOON);
    let mut management = ManagementClient::new(cast.channel(Who::Owner, cast.address(follower)));
    let label = UpdateNodeLabelsRequest {
        node: Some(update_node_labels_request::Node::Id(cast.nodes[0].id.clone())),
        upsert: vec![Pair {
            key: "seen".into(),
            value: "after".into(),
        }],
        delete: Vec::new(),
    };
    cast.runtime
        .block_on(management.update_node_labels(bounded(label)))
        .unwrap();
    for (client, recorded) in &watching {
        let seen = recorded.wait_line(Mark::START, SOON, |line| line == "seen after");
        seen.unwrap_or_else(|error| panic!("{client}: {}", error.chain()));
    }
}

#[test]
fn clients_that_others_wrote_are_answered_without_tls() {
    let Some(clients) = brought() else { return };
    let (stage, leader) = TestCluster::elected("clients-plain", Reach::All, TTL, EtcdOptions::default());
    let (descriptors, message) = (descriptors(&stage.scratch), empty_message(&stage.scratch));
    let id = stage.curators[leader].node_id();
    for instance in [leader, stage.others(leader)[0]] {
        let at = stage.curators[instance].address();
        for (client, program, first) in clients.ours() {
            let mut command = Command::new(program);
            command.args(first);
            let arguments = ["plain".into(), at.to_string().into(), descriptors.clone().into()];
            let text = said(client, command, &arguments);
            assert_eq!(
                text.lines().collect::<Vec<_>>(),
                [&format!("leader {id}"), "refused 16"],
                "{client}"
            );
        }
        if let Some(mut command) = clients.program("grpcurl") {
            command.args(["-plaintext", "-d", r#"{"service": ""}"#]);
            let method = "grpc.health.v1.Health/Check";
            let text = said("grpcurl", command, &[at.to_string().into(), method.into()]);
            assert!(text.contains("SERVING"), "{text}");
        }
        if clients.program("curl").is_some() {
            let url = format!("http://{at}/metropolis.proto.api.Management/GetClusterInfo");
            // Such a call is answered at its head, and the rest of it is refused with RST_STREAM (NO_ERROR), as grpc-go
            // does. curl 7.88 loses the answer when the two come together (exit code 92).
            let answered = (0..50).find_map(|_| {
                let mut command = clients.program("curl").unwrap();
                command.args(curl(vec!["--http2-prior-knowledge".into()], &message, &url));
                let answered = run(command, 2 * SOON).unwrap();
                let code = answered.status.code();
                assert!(matches!(code, Some(0 | 92)), "{code:?}: {}", answered.stderr);
                answered.stdout.contains("grpc-status: ").then_some(answered)
            });
            let answered = answered.expect("curl has the answer of one call out of fifty");
            assert!(answered.stdout.contains("grpc-status: 16"), "{}", answered.stdout);
        }
    }
}
