//! What the guides say, done as they say it.

use std::fs;
use std::path::Path;
use std::process::Command;

use curator_harness::curator::binary_from_env;
use curator_harness::process::{Finished, run};
use curator_harness::{EtcdBinaries, EtcdCluster, EtcdOptions, EtcdTls, Scratch};

use crate::stage::SOON;

const THREE_NODES: &str = include_str!("../../../docs/running-three-nodes.md");

/// The block of a guide that has these words in it.
fn block<'a>(guide: &'a str, words: &str) -> &'a str {
    let blocks = guide.split("```sh\n").skip(1);
    let mut found = blocks.filter_map(|rest| rest.split("```").next().filter(|block| block.contains(words)));
    found.next().unwrap_or_else(|| panic!("no block with {words:?}"))
}

/// Runs a block as a shell does, in a directory.
fn sh(block: &str, directory: &Path) -> Finished {
    let mut command = Command::new("sh");
    command.args(["-eu", "-c", block]).current_dir(directory);
    let bin = binary_from_env().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", bin.parent().unwrap().display()));
    run(command, SOON).unwrap()
}

#[test]
fn certificates_of_the_guide_let_an_import_into_etcd() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: openssl is not installed");
        return;
    }
    let scratch = Scratch::new("guide").unwrap();
    let at = |name: &str| scratch.path().join(name);
    let made = sh(block(THREE_NODES, "# etcd's certificates"), scratch.path());
    assert!(made.status.success(), "{}", made.stderr);
    let (certificate, key) = (at("etcd-10.0.0.1.pem"), at("etcd-10.0.0.1-key.pem"));
    let etcd = EtcdCluster::start(
        &EtcdBinaries::from_env().unwrap(),
        &scratch,
        EtcdOptions {
            members: 1,
            tls: Some(EtcdTls {
                certificate: certificate.clone(),
                key: key.clone(),
                ca: at("etcd-ca.pem"),
                client_ca: Some(at("etcd-ca.pem")),
                etcdctl: Some((certificate, key)),
            }),
            ..EtcdOptions::default()
        },
    )
    .unwrap();
    let first = sh(
        "curator bootstrap --embedded ./first --credentials ./credentials --tpm-mode best-effort",
        scratch.path(),
    );
    assert!(first.status.success(), "{}", first.stderr);
    // Here the member is on this host.
    let moving = block(THREE_NODES, "curator import").replace("https://10.0.0.1:2379", &etcd.client_url(0));
    let moved = sh(&moving, scratch.path());
    assert!(moved.status.success(), "{}", moved.stderr);
    assert!(moved.stdout.contains("imported"), "{}", moved.stdout);
    assert!(!at("state").exists());
    // Whoever has no certificate gets nothing.
    let (endpoint, ca) = (etcd.client_url(0), at("etcd-ca.pem"));
    let without = format!(
        "curator export --out none --etcd-endpoints {endpoint} --etcd-ca {}",
        ca.display()
    );
    let refused = sh(&without, scratch.path());
    assert!(
        !refused.status.success() && fs::metadata(at("none")).is_err(),
        "{}",
        refused.stdout
    );
}
