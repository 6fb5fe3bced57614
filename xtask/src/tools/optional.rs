//! Programs that make more tests or nicer runs possible, and that nothing needs.
use curator_harness::which::on_path;

use super::go_candidate::debian_library;
use crate::cargo::cargo;

/// Whether `cargo nextest` works here.
pub fn has_nextest() -> bool {
    has_subcommand("nextest")
}

/// Whether `cargo deny` works here.
pub fn has_deny() -> bool {
    has_subcommand("deny")
}

fn has_subcommand(name: &str) -> bool {
    let mut command = cargo(&[name, "--version"]);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// One line for each: its name, whether it is here, and what it is for.
pub fn report() -> Vec<(&'static str, bool, &'static str)> {
    vec![
        ("cargo-nextest", has_nextest(), "runs the tests; else `cargo test` does"),
        (
            "cargo-deny",
            has_deny(),
            "checks the dependencies: licences, sources, duplicates, known faults",
        ),
        (
            "promtool",
            on_path("promtool").is_some(),
            "checks the alerts for Prometheus, and that they fire",
        ),
        (
            "go",
            on_path("go").is_some(),
            "etcd 3.5 to 3.7, candidates of etcd's own Go library in the tests, and clients",
        ),
        (
            "python3",
            on_path("python3").is_some(),
            "a client on gRPC's C core in the tests",
        ),
        ("npm", on_path("npm").is_some(), "a client on grpc-js in the tests"),
        ("curl", on_path("curl").is_some(), "a client in the tests"),
        ("h2load", on_path("h2load").is_some(), "a load of HTTP/2 in the tests"),
        (
            "golang-etcd-server-dev",
            debian_library().is_dir(),
            "that library where there is no module proxy",
        ),
        (
            "nginx",
            on_path("nginx").is_some(),
            "a peer to measure forwarding against",
        ),
        (
            "haproxy",
            on_path("haproxy").is_some(),
            "a peer to measure forwarding against",
        ),
    ]
}
