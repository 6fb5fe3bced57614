//! `curatorctl` at real instances: with TLS and users' certificates, and without either.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use curator_harness::curator::{Event, binary_from_env, ctl_from_env};
use curator_harness::process::{Finished, run};
use curator_harness::{Capture, CuratorOptions, Deadline, EtcdOptions, Journal, Mark, Process, ProcessSpec, TempDir};
use curator_proto::common::NodeStorageSecurity;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{CommitNodeRequest, RegisterNodeRequest};
use curator_service::{
    ClientCredentials, CredentialsDirectory, PrivateKey, Trust, credential_names as names, node_id, read_certificate,
    wall_clock,
};
use serde_json::Value;
use tonic::transport::Channel;

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `curatorctl` with a file of contexts of its own.
struct Ctl {
    config: PathBuf,
}

impl Ctl {
    fn new(stage: &TestCluster) -> Self {
        let config = stage.scratch.path().join("contexts.toml");
        std::fs::write(&config, "").unwrap();
        Self { config }
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut command = Command::new(ctl_from_env().unwrap());
        command.env("CURATORCTL_CONFIG", &self.config).args(args);
        run(command, SOON * 2).unwrap()
    }

    /// What it prints, if it does what it is to do.
    fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert!(done.status.success(), "{args:?}: {}{}", done.stdout, done.stderr);
        done.stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// What it says when it does not, and must not.
    fn refused(&self, args: &[&str], exit: i32) -> String {
        let done = self.run(args);
        assert_eq!(
            done.status.code(),
            Some(exit),
            "{args:?}: {}{}",
            done.stdout,
            done.stderr
        );
        assert!(done.stderr.starts_with("error: "), "{}", done.stderr);
        assert!(
            !done.stderr.contains("rpc error") && !done.stderr.contains("status:"),
            "{}",
            done.stderr
        );
        done.stderr
    }
}

/// A `curatorctl` that goes on, and what it prints.
struct Following {
    process: Process,
    said: Arc<Journal<String>>,
}

impl Following {
    fn start(ctl: &Ctl, stage: &TestCluster, name: &str, args: &[&str]) -> Self {
        let said = Arc::new(Journal::default());
        let spec = ProcessSpec::new(name, ctl_from_env().unwrap())
            .args(args)
            .env("CURATORCTL_CONFIG", &ctl.config)
            .capture(Capture::Stdout);
        let journal = Arc::clone(&said);
        let process = Process::start_with(&spec, &stage.scratch, move |line| journal.record(line.text)).unwrap();
        Self { process, said }
    }

    /// Waits for a line that holds all of that.
    fn says(&self, from: Mark, words: &[&str]) {
        let holds = |line: &String| words.iter().all(|word| line.contains(word)).then_some(());
        let found = self.said.wait(from, Deadline::after(SOON * 2), holds);
        assert!(found.is_some(), "{words:?} in {:#?}", self.said.since(from));
        assert!(self.process.is_running());
    }
}

/// A node to be: its keys, and where its credentials are.
struct Node {
    key: PrivateKey,
    id: String,
    directory: CredentialsDirectory,
    path: PathBuf,
}

impl Node {
    fn new(parent: &Path, number: usize) -> Self {
        let path = parent.join(format!("node-{number}"));
        let directory = CredentialsDirectory::create(&path).unwrap();
        let key = directory.key(names::NODE_KEY).unwrap();
        let id = node_id(key.public_key()).unwrap();
        Self {
            key,
            id,
            directory,
            path,
        }
    }

    /// A channel on which it shows its key.
    fn channel(&self, ca: &[u8], address: &str) -> Channel {
        let trust = Trust::Cluster { ca: ca.to_vec() };
        let shown = ClientCredentials::with_key(trust, &self.key, wall_clock()).unwrap();
        shown.channel(address).unwrap()
    }

    fn start(&self, stage: &mut TestCluster, number: usize) {
        let options = CuratorOptions::new(u32::try_from(number).unwrap(), stage.endpoints(number - 1, Reach::All));
        let mut options = options.leader_ttl(TTL);
        options.node_id.clone_from(&self.id);
        options.credentials = Some(self.path.clone());
        stage.start_program(&binary_from_env().unwrap(), options);
    }
}

/// A cluster of three instances with TLS, from nothing: each node after the first registers, is approved, and commits.
fn cluster() -> (TestCluster, Ctl, Vec<Node>) {
    let scratch = TempDir::new("ctl").unwrap();
    let at = scratch.path().to_owned();
    let text = |path: &Path| path.display().to_string();
    let nodes: Vec<_> = (1..=3).map(|number| Node::new(&at, number)).collect();
    let names = nodes.iter().map(|node| node.id.clone()).collect();
    let mut stage = TestCluster::within(
        scratch,
        EtcdOptions {
            names,
            ..EtcdOptions::default()
        },
    );
    let own = CredentialsDirectory::create(&at.join("owner")).unwrap();
    let owner_key = own.key(names::OWNER_KEY).unwrap();
    let mut bootstrap = Command::new(binary_from_env().unwrap());
    bootstrap
        .args([
            "bootstrap",
            "--etcd-endpoints",
            &stage.endpoints(0, Reach::All).join(","),
        ])
        .args(["--node-public-key", &hex(nodes[0].key.public_key())])
        .args(["--join-public-key", &hex(&[7; 32])])
        .args(["--owner-public-key", &hex(owner_key.public_key())])
        .args(["--tpm-mode", "best-effort", "--out", &text(&nodes[0].path)]);
    let made = run(bootstrap, SOON).unwrap();
    assert!(made.status.success(), "{}", made.stderr);
    nodes[0].start(&mut stage, 1);
    stage.agreed(SOON);
    let address = stage.curators[0].address().to_string();

    let ctl = Ctl::new(&stage);
    let (ca, owner) = (text(&at.join("ca.pem")), text(&own.path(names::OWNER)));
    let key = text(&own.path(names::OWNER_KEY));
    let fetched = ctl.ok(&["cert", "ca", "--endpoint", &address, "--out", &ca]);
    let fingerprint = fetched.split("SHA-256 fingerprint: ").nth(1).unwrap().trim();
    ctl.ok(&["cert", "ca", "--endpoint", &address, "--fingerprint", fingerprint]);
    let other = ctl.refused(
        &["cert", "ca", "--endpoint", &address, "--fingerprint", &"00".repeat(32)],
        1,
    );
    assert!(other.contains("another cluster"), "{other}");
    ctl.ok(&[
        "cert",
        "owner",
        "--endpoint",
        &address,
        "--ca",
        &ca,
        "--key",
        &key,
        "--out",
        &owner,
    ]);
    assert!(ctl.ok(&["cert", "verify", &owner, "--ca", &ca]).contains("user owner"));
    // The nodes of the other instances have no role here, for the names of etcd's members are not theirs: they prove
    // nothing.
    ctl.ok(&[
        "context",
        "set",
        "test",
        "--any-node",
        "--endpoint",
        &address,
        "--ca",
        &ca,
        "--cert",
        &owner,
        "--key",
        &key,
    ]);

    let ca_der = read_certificate(Path::new(&ca)).unwrap();
    let known = ctl.ok(&["ticket"]);
    let ticket = ctl.ok(&["ticket", "rotate", "--yes"]);
    assert_ne!(ticket, known, "it is another one");
    assert_eq!(ctl.ok(&["ticket"]), ticket);
    let ticket: Vec<u8> = (0..ticket.trim().len() / 2)
        .map(|at| u8::from_str_radix(&ticket[at * 2..at * 2 + 2], 16).unwrap())
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (number, node) in (2_u8..).zip(&nodes[1..]) {
        let join_key = [number + 100; 32].to_vec();
        let register = RegisterNodeRequest {
            register_ticket: ticket.clone(),
            join_key,
            have_local_tpm: false,
            labels: None,
        };
        runtime.block_on(async {
            let mut curator = CuratorClient::new(node.channel(&ca_der, &address));
            curator.register_node(register).await.unwrap();
        });
        let listed = ctl.json(&[
            "nodes",
            "list",
            "--filter",
            &format!("node.id == '{}' && node.state == NODE_STATE_NEW", node.id),
        ]);
        assert_eq!(listed[0]["state"], "new");
        ctl.ok(&["nodes", "approve", &node.id]);
        runtime.block_on(async {
            let mut curator = CuratorClient::new(node.channel(&ca_der, &address));
            let commit = CommitNodeRequest {
                cluster_unlock_key: vec![number; 32],
                storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
            };
            let committed = curator.commit_node(commit).await.unwrap().into_inner();
            node.directory
                .write_certificate(names::CA, &committed.ca_certificate)
                .unwrap();
            node.directory
                .write_certificate(names::NODE, &committed.node_certificate)
                .unwrap();
        });
        node.start(&mut stage, usize::from(number));
        stage.agreed(SOON);
    }
    // A pass of the leader gives a member of etcd its role.
    let members = ["nodes", "list", "--filter", "has(node.roles.consensus_member)"];
    let until = Deadline::after(SOON * 2);
    while ctl.json(&members).as_array().unwrap().len() < 3 {
        assert!(!until.passed(), "the members of etcd have no roles");
        std::thread::sleep(Duration::from_millis(200));
    }
    (stage, ctl, nodes)
}

#[test]
fn an_operator_sees_the_cluster_and_chooses_who_leads() {
    if crate::test_cluster::done_already() {
        return;
    }
    let (stage, ctl, nodes) = cluster();
    // From one address all are found.
    let status = ctl.json(&["status"]);
    let instances = status.as_array().unwrap();
    assert_eq!(instances.len(), 3, "{status:#}");
    let term = stage.lock_revision(0);
    for node in &nodes {
        let found = instances.iter().find(|instance| instance["node"] == node.id.as_str());
        let found = found.unwrap_or_else(|| panic!("{} is missing: {status:#}", node.id));
        let leads = node.id == nodes[0].id;
        assert_eq!(found["role"], if leads { "leader" } else { "follower" });
        assert_eq!(found["leader"]["node"], nodes[0].id.as_str());
        assert_eq!(found["leader"]["term"], term);
        assert_eq!(found["ttl_seconds"], TTL.as_secs_f64());
        assert_eq!(found["left_seconds"].as_f64().is_some_and(|left| left > 0.0), leads);
        assert_eq!(found["candidates"].as_array().unwrap().len(), 3);
        let endpoints = found["consensus"]["endpoints"].as_array().unwrap();
        assert!(
            endpoints.len() == 3 && endpoints.iter().all(|endpoint| endpoint["healthy"] == true),
            "{found:#}"
        );
        assert_eq!(endpoints.iter().filter(|endpoint| endpoint["leads"] == true).count(), 1);
        assert_eq!(found["consensus"]["members"].as_array().unwrap().len(), 3);
    }
    let table = ctl.ok(&["status"]);
    assert!(table.starts_with("NODE") && table.contains("3/3 healthy"), "{table}");
    assert!(ctl.ok(&["leader"]).contains(&nodes[0].id));

    // Those that go on, from instances that do not lead.
    let follower = stage.curators[1].address().to_string();
    let start = |name: &str, args: &[&str]| Following::start(&ctl, &stage, name, args);
    let leaders = start("follow-leader", &["leader", "--follow", "--endpoint", &follower]);
    let states = start(
        "watch-status",
        &["status", "--watch", "--interval", "200ms", "-o", "json"],
    );
    let changes = start("watch-nodes", &["nodes", "watch"]);
    leaders.says(Mark::START, &[&nodes[0].id]);
    let leads = |node: &Node| format!("\"leader\":{{\"address\":\"{}\"", address_of(&stage, &nodes, node));
    states.says(Mark::START, &[&leads(&nodes[0])]);
    for node in &nodes {
        changes.says(Mark::START, &[&node.id, "up"]);
    }

    // The last in the queue is to lead, and does; the others make way.
    let marks = stage.marks();
    let done = ctl.json(&["step-down", "--to", &nodes[2].id]);
    assert_eq!(done["after"]["node"], nodes[2].id.as_str());
    assert_eq!(done["before"]["term"], term);
    let (next, _) = stage.next_leader(&[0, 1, 2], &marks, SOON);
    assert_eq!(next, 2, "nobody led in between");
    assert_eq!(stage.agreed(SOON), 2);
    println!(
        "measured: seconds from the answer to the next leader's being seen: {}",
        done["seconds"]
    );
    leaders.says(Mark::START, &[&nodes[2].id]);
    states.says(Mark::START, &[&leads(&nodes[2])]);
    // It is followed from an instance that does not lead, and back again without a name.
    ctl.ok(&["step-down"]);
    let now = stage.agreed(SOON);
    assert_ne!(now, 2);
    stage.nobody_led_beside_another();

    // What cannot be is refused, and who leads goes on.
    let term = stage.lock_revision(now);
    let absent = ctl.refused(&["step-down", "--to", "metropolis-00"], 3);
    assert!(
        absent.contains("is not a candidate") && absent.contains(&nodes[2].id),
        "{absent}"
    );
    ctl.refused(&["step-down", "--to", &nodes[now].id], 1);
    assert_eq!(stage.lock_revision(now), term);

    logging(&stage, &ctl);
    let mark = changes.said.mark();
    management(&ctl, &nodes[2].id);
    // The watch has gone on through two changes of leader.
    changes.says(mark, &[&nodes[2].id, "rack=r1"]);
    changes.says(mark, &[&nodes[2].id, "kubernetes-worker"]);
    changes.says(mark, &[&nodes[2].id, "deleted"]);

    let leaving = &nodes[1];
    let early = ctl.refused(&["nodes", "delete", "--yes", &leaving.id], 1);
    assert!(early.contains("decommission"), "{early}");
    ctl.ok(&["nodes", "decommission", "--yes", &leaving.id]);
    changes.says(mark, &[&leaving.id, "decommissioned"]);
    ctl.ok(&["nodes", "delete", "--yes", &leaving.id]);
    changes.says(mark, &[&leaving.id, "deleted"]);
    let last = ctl.refused(&["nodes", "decommission", "--yes", &nodes[0].id], 1);
    assert!(last.contains("the last consensus member"), "{last}");
}

/// A leader whose node goes makes way first, and does not come back.
#[test]
fn a_leader_whose_node_is_deleted_hands_over_and_stands_no_more() {
    if crate::test_cluster::done_already() {
        return;
    }
    let (stage, ctl, nodes) = cluster();
    let (leader, marks) = (stage.agreed(SOON), stage.marks());
    ctl.ok(&[
        "nodes",
        "delete",
        "--yes",
        "--bypass-has-roles",
        "--bypass-not-decommissioned",
        &nodes[leader].id,
    ]);
    let (next, _) = stage.next_leader(&[0, 1, 2], &marks, SOON);
    assert_ne!(next, leader);
    let barred = |event: &Event| {
        event
            .message()
            .is_some_and(|said| said.contains("does not stand for election"))
    };
    stage.curators[leader]
        .wait_for(marks[leader], SOON, "the deleted node's instance to leave", barred)
        .unwrap();
    assert_eq!(ctl.json(&["nodes", "list"]).as_array().unwrap().len(), 2);
    // Those who stand are the others.
    let until = Deadline::after(SOON);
    let standing = || {
        let status = ctl.json(&["status"]);
        let candidates = status[0]["candidates"].as_array().cloned().unwrap_or_default();
        candidates
            .iter()
            .map(|each| each["node"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    while standing().contains(&nodes[leader].id) {
        assert!(!until.passed(), "{:?}", standing());
    }
    let marks = stage.marks();
    ctl.ok(&["step-down"]);
    let (third, _) = stage.next_leader(&[0, 1, 2], &marks, SOON);
    assert!(third != leader && third != next, "{third}");
    stage.nobody_led_beside_another();
}

/// Where the instance of a node is.
fn address_of(stage: &TestCluster, nodes: &[Node], node: &Node) -> String {
    let number = nodes.iter().position(|other| other.id == node.id).unwrap();
    stage.curators[number].address().to_string()
}

/// Each instance has a filter of its own, which a user changes while it runs.
fn logging(stage: &TestCluster, ctl: &Ctl) {
    let at = |number: usize| stage.curators[number].address().to_string();
    let two = format!("{},{}", at(1), at(2));
    let told = ctl.json(&["log-level", "info,curator_service=debug", "--endpoint", &two]);
    assert_eq!(told.as_array().unwrap().len(), 2, "{told}");
    for told in told.as_array().unwrap() {
        assert_eq!(told["filter"], "info,curator_service=debug");
        assert_eq!(told["previous"], "info");
    }
    stage.curators[1]
        .wait_for(Mark::START, SOON, "the change to be logged", |event| {
            event.message() == Some("log filter changed") && event.text_of("user") == Some("owner")
        })
        .unwrap();
    let bad = ctl.refused(&["log-level", "inof", "--endpoint", &two], 2);
    assert!(bad.contains("unknown level \"inof\": expected a level"), "{bad}");
    let table = ctl.ok(&["log-level", "--endpoint", &format!("{},{}", at(0), at(1))]);
    assert!(
        table.starts_with("INSTANCE") && table.contains("info,curator_service=debug"),
        "{table}"
    );
    let rows: Vec<_> = table.lines().skip(1).map(|row| row.split_whitespace().nth(1)).collect();
    assert_eq!(
        rows,
        [Some("info"), Some("info,curator_service=debug")],
        "the other one stays as it is"
    );
    // The configuration counts again once it is read again.
    stage.curators[1]
        .process()
        .signal(rustix::process::Signal::HUP)
        .unwrap();
    stage.curators[1]
        .wait_for(Mark::START, SOON, "the filter of the configuration", |event| {
            event.message() == Some("log filter changed") && event.text_of("to") == Some("info")
        })
        .unwrap();
}

/// Nodes, labels, roles and configuration.
fn management(ctl: &Ctl, id: &str) {
    ctl.ok(&["nodes", "labels", id, "rack=r1", "zone=z"]);
    ctl.ok(&["nodes", "labels", id, "zone-"]);
    ctl.ok(&["nodes", "roles", id, "--add", "kubernetes-worker"]);
    let node = ctl.json(&["nodes", "get", id]);
    assert_eq!(node["labels"], serde_json::json!({"rack": "r1"}));
    assert_eq!(
        node["roles"],
        serde_json::json!(["consensus-member", "kubernetes-worker"])
    );
    let by_key = ctl.json(&["nodes", "get", node["public_key"].as_str().unwrap()]);
    assert_eq!(by_key["id"], id);
    assert!(ctl.ok(&["nodes", "get", id, "-o", "yaml"]).contains("rack: r1"));
    assert_eq!(ctl.json(&["nodes", "list"]).as_array().unwrap().len(), 3);
    ctl.refused(&["nodes", "get", "metropolis-00"], 3);
    let wrong = ctl.refused(&["nodes", "list", "--filter", "node."], 2);
    assert!(wrong.contains("filter"), "{wrong}");
    let set = ctl.json(&["config", "set", "--sync-labels", "^rack$"]);
    assert_eq!(set, ctl.json(&["config", "get"]));
    assert_eq!(
        set["kubernetes.node_labels_to_synchronize"],
        serde_json::json!(["^rack$"])
    );
    // Without a terminal there is nobody to ask.
    let unasked = ctl.refused(&["nodes", "delete", id], 2);
    assert!(
        unasked.contains("--yes") && unasked.contains("kubernetes-worker"),
        "{unasked}"
    );
    ctl.ok(&["nodes", "delete", id, "--dry-run"]);
    let has_roles = ctl.refused(&["nodes", "delete", "--yes", id], 1);
    assert!(has_roles.contains("at: "), "{has_roles}");
    ctl.ok(&[
        "nodes",
        "delete",
        "--yes",
        id,
        "--bypass-has-roles",
        "--bypass-not-decommissioned",
    ]);
    assert_eq!(ctl.json(&["nodes", "list"]).as_array().unwrap().len(), 2);
}

/// Without certificates nobody is a user: what anybody may know is shown, and nothing is done.
#[test]
fn without_tls_little_is_shown_and_nothing_is_done() {
    if crate::test_cluster::done_already() {
        return;
    }
    let (stage, leader) = TestCluster::elected("ctl-plain", Reach::All, TTL, EtcdOptions::default());
    let ctl = Ctl::new(&stage);
    let addresses: Vec<_> = stage
        .curators
        .iter()
        .map(|curator| curator.address().to_string())
        .collect();
    let all = addresses.join(",");
    let plain = ["--insecure-loopback-only", "--endpoint"];
    let at = |endpoint: &str, args: &[&str]| -> Vec<String> {
        let words = args.iter().chain(&plain).map(|word| (*word).to_owned());
        words.chain([endpoint.to_owned()]).collect()
    };
    fn words(all: &[String]) -> Vec<&str> {
        all.iter().map(String::as_str).collect()
    }
    let status = ctl.json(&words(&at(&all, &["status"])));
    for (number, curator) in stage.curators.iter().enumerate() {
        let found = status
            .as_array()
            .unwrap()
            .iter()
            .find(|instance| instance["node"] == curator.node_id());
        assert_eq!(
            found.unwrap()["role"],
            if number == leader { "leader" } else { "follower" }
        );
    }
    for command in [
        &["nodes", "list"][..],
        &["step-down"],
        &["ticket"],
        &["ticket", "rotate", "--yes"],
        &["log-level"],
        &["log-level", "off"],
    ] {
        let refused = ctl.refused(&words(&at(&all, command)), 5);
        assert!(refused.contains("not TLS") && refused.contains("try: "), "{refused}");
    }
    assert_eq!(stage.agreed(SOON), leader);

    // One that hangs, and one that is not there: the next one is asked.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hung = hung.local_addr().map(|address| (hung, address)).unwrap();
    let mixed = format!("{},{gone},{}", hung.1, addresses[0]);
    let begun = std::time::Instant::now();
    let told = ctl.ok(&words(&at(&mixed, &["leader"])));
    assert!(told.contains(stage.curators[leader].node_id()), "{told}");
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it did not wait for the one that hangs"
    );
    let nobody = ctl.refused(
        &words(&at(&format!("{},{gone}", hung.1), &["leader", "--timeout", "2s"])),
        4,
    );
    assert!(
        nobody.contains(&gone.to_string()) && nobody.contains(&hung.1.to_string()),
        "{nobody}"
    );
    ctl.refused(&["leader"], 2);
    ctl.refused(&["leader", "--context", "none"], 3);
    let version = ctl.ok(&["--version"]);
    assert!(version.starts_with("curatorctl 0."), "{version}");
}
