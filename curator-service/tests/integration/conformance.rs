//! HTTP/2 as somebody else tests it: h2spec, on the socket of an instance that leads and of one that follows.

use xtask::harness::EtcdOptions;
use xtask::harness::process::run;
use xtask::tools::clients::Clients;

use crate::stage::{Reach, SOON, Stage, TTL};

/// What h2spec counts as failed, and why it is not: docs/clients.md.
const EXPLAINED: [&str; 5] = [
    "Sends a HEADERS frame with the \"content-length\" header field which does not equal the DATA frame payload length",
    "Sends a HEADERS frame with the \"content-length\" header field which does not equal the sum of the multiple DATA frames payload length",
    "Sends a second HEADERS frame without the END_STREAM flag",
    "Sends invalid connection preface",
    "Sends a HEADERS frame that contains a pseudo-header field as trailers",
];

#[test]
fn http2_is_as_h2spec_has_it() {
    let Some(clients) = Clients::from_env() else {
        println!("SKIPPED: nobody says where h2spec is");
        return;
    };
    let (stage, leader) = Stage::elected("h2spec", Reach::All, TTL, EtcdOptions::default());
    for instance in [leader, stage.others(leader)[0]] {
        let Some(mut command) = clients.program("h2spec") else {
            println!("SKIPPED: there is no h2spec here");
            return;
        };
        let port = stage.curators[instance].address().port().to_string();
        command.args(["--host", "127.0.0.1", "--port", &port, "--timeout", "2"]);
        let said = run(command, 4 * SOON).unwrap().stdout;
        let counted = said
            .lines()
            .rev()
            .find(|line| line.contains(" passed, "))
            .unwrap_or_default();
        println!("h2spec: {counted}");
        let (_, failures) = said.split_once("Failures:").unwrap_or_default();
        let failed: Vec<_> = failures
            .lines()
            .filter_map(|line| line.trim().strip_prefix("× ")?.split_once(": "))
            .map(|(_, what)| what)
            .collect();
        let unknown: Vec<_> = failed.iter().filter(|what| !EXPLAINED.contains(what)).collect();
        assert!(unknown.is_empty(), "{unknown:?}\n{failures}");
        assert!(
            counted.starts_with("145 tests, ") && counted.contains(" 0 skipped"),
            "{said}"
        );
    }
}
