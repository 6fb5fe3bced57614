//! A node's way into a cluster, interrupted wherever it can be: `curator register` goes on from there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use curator_harness::process::{Finished, run};
use curator_harness::which::built_beside;
use curator_harness::{Mark, SingleNode, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A cluster of one instance, as its owner has it.
struct Home(SingleNode);

impl Home {
    fn new(name: &str) -> Self {
        let curator = Path::new(env!("CARGO_BIN_EXE_curator"));
        Self(SingleNode::start(name, curator, &built_beside("curatorctl")).unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).display().to_string()
    }

    fn address(&self) -> String {
        self.0.address().to_string()
    }

    /// What `curatorctl` prints.
    fn ctl(&self, args: &[&str]) -> String {
        let done = self.try_ctl(args);
        assert!(done.status.success(), "{args:?}: {}{}", done.stdout, done.stderr);
        done.stdout
    }

    fn try_ctl(&self, args: &[&str]) -> Finished {
        self.0.curatorctl(args).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[args, &["-o", "json"]].concat())).unwrap()
    }

    fn register(&self, node: &str, ticket: &str, more: &[&str]) -> Finished {
        let mut command = Command::new(env!("CARGO_BIN_EXE_curator"));
        command
            .args([
                "register",
                "--address",
                &self.address(),
                "--credentials",
                &self.path(node),
            ])
            .args(["--ca", &self.path("first/ca.pem")])
            .args(more)
            .env("CURATOR_REGISTER_TICKET", ticket);
        run(command, SOON).unwrap()
    }

    /// A file with so many bytes.
    fn unlock_key(&self, bytes: usize) -> PathBuf {
        let path = self.0.path(&format!("unlock-key-{bytes}"));
        fs::write(&path, vec![7; bytes]).unwrap();
        path
    }
}

/// What it says when it fails.
fn failed(finished: &Finished) -> &str {
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    &finished.stderr
}

#[test]
fn what_cannot_be_an_unlock_key_is_refused_before_anything_is_registered() {
    let home = Home::new("register-refused");
    let ticket = home.ctl(&["ticket"]);
    let none = home.register("second", ticket.trim(), &[]);
    assert!(failed(&none).contains("--cluster-unlock-key-file"), "{none:?}");
    for bytes in [0, 31, 33] {
        let file = home.unlock_key(bytes).display().to_string();
        let short = home.register("second", ticket.trim(), &["--cluster-unlock-key-file", &file]);
        assert!(failed(&short).contains("32 bytes long"), "{short:?}");
    }
    let absent = home.register(
        "second",
        ticket.trim(),
        &["--cluster-unlock-key-file", &home.path("absent")],
    );
    assert!(failed(&absent).contains("absent"), "{absent:?}");
    assert_eq!(home.json(&["nodes", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_registration_goes_on_from_wherever_it_was() {
    let home = Home::new("register-again");
    let ticket = home.ctl(&["ticket"]);
    let file = home.unlock_key(32).display().to_string();
    let register = |wait: &str| {
        home.register(
            "second",
            ticket.trim(),
            &["--cluster-unlock-key-file", &file, "--wait", wait],
        )
    };
    // NEW, and NEW once more.
    for _ in 0..2 {
        let late = register("1500ms");
        assert!(failed(&late).contains("not approved within"), "{late:?}");
    }
    let pending = home.json(&["nodes", "pending"]);
    let [node] = pending.as_array().unwrap().as_slice() else {
        panic!("{pending:#}")
    };
    assert_eq!(node["registered_from"], "127.0.0.1");
    assert!(node["registered_at"].as_str().unwrap().starts_with("20"), "{node:#}");
    let said = register("1500ms").stdout;
    let (id, fingerprint) = (node["id"].as_str().unwrap(), node["key_sha256"].as_str().unwrap());
    assert!(said.contains(id) && said.contains(fingerprint), "{said} of {node:#}");

    // Approved while nobody waited; and nobody has the ticket any more by then.
    home.ctl(&["nodes", "approve", id]);
    home.ctl(&["ticket", "rotate", "--yes"]);
    let done = register("20s");
    assert!(done.status.success(), "{done:?}");
    let certificate = fs::read(home.path("second/node.pem")).unwrap();
    assert_eq!(home.json(&["nodes", "get", id])["state"], "up");

    // Committed, and the answer got lost.
    fs::remove_file(home.path("second/node.pem")).unwrap();
    let again = register("20s");
    assert!(again.status.success(), "{again:?}");
    assert_eq!(fs::read(home.path("second/node.pem")).unwrap(), certificate);
    // Nothing that cannot be taken back is done unless it is said that it is meant.
    home.ctl(&["nodes", "delete", id, "--bypass-not-decommissioned", "--dry-run"]);
    assert_eq!(home.json(&["nodes", "get", id])["state"], "up");
    let there = register("20s");
    assert!(failed(&there).contains("already a node of a cluster"), "{there:?}");
}

/// Each change is one line, with who made it and how it ended; and no line of the log has the ticket.
#[test]
fn who_did_what_is_told_and_no_secret_with_it() {
    let home = Home::new("audit");
    let id = home.json(&["nodes", "list"])[0]["id"].as_str().unwrap().to_owned();
    let tickets = [home.ctl(&["ticket"]), home.ctl(&["ticket", "rotate", "--yes"])];
    home.ctl(&["nodes", "labels", &id, "rack=the-value"]);
    home.ctl(&["nodes", "roles", &id, "--add", "kubernetes-worker"]);
    home.ctl(&["config", "set", "--sync-labels", "^rack$"]);
    for refused in [
        &["step-down"][..],
        &["nodes", "decommission", "--yes", &id],
        &["nodes", "delete", "--yes", &id],
    ] {
        assert_ne!(home.try_ctl(refused).status.code(), Some(0), "{refused:?}");
    }
    home.ctl(&["nodes", "approve", &id]);
    for (action, on, change, outcome) in [
        ("read register ticket", "register ticket", "", true),
        ("rotate register ticket", "register ticket", "", true),
        ("change labels", &*id, "+rack", true),
        ("change roles", &id, "+kubernetes_worker", true),
        (
            "configure cluster",
            "cluster",
            "kubernetes.node_labels_to_synchronize",
            true,
        ),
        ("step down", "leader", "", false),
        ("decommission node", &id, "", false),
        ("approve node", &id, "", true),
    ] {
        let told = home.0.instance().wait_for(Mark::START, SOON, action, |event| {
            event.target() == Some("curator::audit") && event.text_of("action") == Some(action)
        });
        let told = told.unwrap();
        assert_eq!(told.text_of("caller"), Some("user owner"), "{}", told.text);
        assert_eq!(told.text_of("on"), Some(on), "{}", told.text);
        assert_eq!(told.text_of("change"), Some(change), "{}", told.text);
        assert_eq!(told.text_of("outcome") == Some("ok"), outcome, "{}", told.text);
        assert_eq!(told.fields["level"], "INFO");
    }
    let log = home.0.instance().events_since(Mark::START);
    for secret in tickets.iter().map(|ticket| ticket.trim()).chain(["the-value"]) {
        assert!(log.iter().all(|event| !event.text.contains(secret)), "{secret}");
    }
}

#[test]
fn certificates_are_renewed_while_the_instance_runs() {
    let home = Home::new("renew");
    let serial = |name: &str| {
        let text = fs::read_to_string(home.path(name)).unwrap();
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 1, "{text}");
        text
    };
    let (owner, node) = (serial("owner.pem"), serial("first/node.pem"));
    let (key, certificate) = (home.path("first/owner-key.pem"), home.path("owner.pem"));
    let said = home.ctl(&["cert", "renew", "--cert", &certificate, "--key", &key]);
    assert!(said.contains("user owner"), "{said}");
    assert_ne!(serial("owner.pem"), owner);
    home.ctl(&["nodes", "list"]);
    let mark = home.0.instance().mark();
    home.ctl(&["cert", "renew", "--credentials", &home.path("first")]);
    assert_ne!(serial("first/node.pem"), node);
    home.0
        .instance()
        .wait_for(mark, SOON, "the new certificate to be used", |event| {
            event.message() == Some("credentials reloaded")
        })
        .unwrap();
    home.ctl(&["nodes", "list"]);
    // A name that is mistyped makes nothing.
    let nowhere = home.path("nowhere");
    let refused = home.try_ctl(&["cert", "renew", "--credentials", &nowhere]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!Path::new(&nowhere).exists());
}

/// All expressions of the document, and labels without one.
#[test]
fn nodes_are_found_by_labels_and_by_each_expression_of_the_document() {
    let home = Home::new("filters");
    let id = home.json(&["nodes", "list"])[0]["id"].as_str().unwrap().to_owned();
    home.ctl(&["nodes", "labels", &id, "rack=r1", "ssd="]);
    let found = |args: &[&str]| {
        home.json(&[&["nodes", "list"], args].concat())
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(found(&["-l", "rack=r1", "-l", "ssd"]), 1);
    // The instance says of its node that it lives.
    let healthy = [
        "--filter",
        "node.health == HEALTH_HEALTHY && node.time_since_heartbeat < duration('1h')",
    ];
    wait_until("the node's heartbeat", SOON, || (found(&healthy) == 1).then_some(())).unwrap();
    assert_eq!(found(&["-l", "rack=r1", "--filter", "node.id == 'x' || true"]), 1);
    for none in [["-l", "rack=r2"], ["-l", "hdd"], ["-l", "ssd=x"]] {
        assert_eq!(found(&none), 0, "{none:?}");
    }
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/filters.md");
    let text = fs::read_to_string(document).unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_suffix("` |")?.split_once(" | `"));
    let mut count = 0;
    for (what, expression) in rows {
        let wanted = usize::from(
            ["members of the consensus", "with a label", "either of two"]
                .iter()
                .any(|each| what.ends_with(each)),
        );
        let all = found(&["--filter", expression]);
        assert!(all >= wanted, "{what}: {expression}");
        count += 1;
    }
    assert!(count >= 8, "{count} expressions");
    for wrong in ["node.", "node.id", "1/0 == 1"] {
        let refused = home.try_ctl(&["nodes", "list", "--filter", wrong]);
        assert_eq!(refused.status.code(), Some(2), "{wrong}: {refused:?}");
    }
}
