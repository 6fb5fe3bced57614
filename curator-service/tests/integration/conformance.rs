//! HTTP/2 as somebody else tests it: h2spec, on the socket of an instance that leads and of one that follows.

use std::collections::BTreeSet;

use curator_harness::EtcdOptions;
use curator_harness::foreign::Clients;
use curator_harness::process::run;

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

/// What h2spec counts as failed, and why it is not: docs/clients.md.
const EXPLAINED: [&str; 1] = ["Sends invalid connection preface"];
/// So often is it asked.
const ATTEMPTS: usize = 6;

#[test]
fn http2_is_as_h2spec_has_it() {
    if crate::test_cluster::done_already() {
        return;
    }
    let Some(clients) = Clients::from_env() else {
        println!("SKIPPED: nobody says where h2spec is");
        return;
    };
    let (stage, leader) = TestCluster::elected("h2spec", Reach::All, TTL, EtcdOptions::default());
    for instance in [leader, stage.others(leader)[0]] {
        let port = stage.curators[instance].address().port().to_string();
        let mut always: Option<BTreeSet<String>> = None;
        // What h2spec sends is no call of gRPC, and is answered at its head. Where it expects an error for what comes
        // after that, it sees the one or the other, by which is faster: what does not fail each time is as it should
        // be.
        for _ in 0..ATTEMPTS {
            let Some(mut command) = clients.program("h2spec") else {
                println!("SKIPPED: there is no h2spec here");
                return;
            };
            command.args(["--host", "127.0.0.1", "--port", &port, "--timeout", "2"]);
            let said = run(command, 4 * SOON).unwrap().stdout;
            let counted = said
                .lines()
                .rev()
                .find(|line| line.contains(" passed, "))
                .unwrap_or_default();
            println!("h2spec: {counted}");
            assert!(
                counted.starts_with("145 tests, ") && counted.contains(" 0 skipped"),
                "{said}"
            );
            let (_, failures) = said.split_once("Failures:").unwrap_or_default();
            let failed: BTreeSet<_> = failures
                .lines()
                .filter_map(|line| line.trim().strip_prefix("× ")?.split_once(": "))
                .map(|(_, what)| what.to_owned())
                .filter(|what| !EXPLAINED.contains(&what.as_str()))
                .collect();
            let both = match &always {
                Some(before) => before.intersection(&failed).cloned().collect(),
                None => failed,
            };
            let done = both.is_empty();
            always = Some(both);
            if done {
                break;
            }
        }
        let always = always.unwrap_or_default();
        assert!(always.is_empty(), "{always:?}");
    }
}
