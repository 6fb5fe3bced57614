//! What no package may depend on: a library none of what its programs need, the operator's tool neither leader nor
//! etcd, nothing of the product the build tool, and no program for use what is for tests alone.

use curator_harness::error::Result;
use curator_harness::step::quiet;

use crate::cargo::cargo;

/// A package, and what must not be among its normal dependencies.
const FORBIDDEN: &[(&str, &[&str])] = &[
    // It knows nothing of etcd, and nothing of the election.
    (
        "curator-listener",
        &["etcd-client", "curator-election", "curator-store"],
    ),
    // Whoever embeds the service builds nothing of the programs.
    (
        "curator-service",
        &[
            "clap",
            "clap_complete",
            "clap_mangen",
            "comfy-table",
            "toml",
            "sd-notify",
            "tracing-subscriber",
            "metrics-exporter-prometheus",
            "xtask",
            "curator-harness",
        ],
    ),
    // Whoever calls a cluster links no server.
    (
        "curator-client",
        &[
            "curator-service",
            "curator-election",
            "curator-store",
            "curator-listener",
            "etcd-client",
            "xtask",
            "curator-harness",
        ],
    ),
    (
        "curatorctl",
        &[
            "curator-service",
            "curator-election",
            "curator-store",
            "curator-listener",
            "etcd-client",
            "xtask",
            "curator-harness",
        ],
    ),
    (
        "curator",
        &["xtask", "curator-harness", "curator-echo", "curator-loads"],
    ),
    ("curator-election", &["xtask", "curator-harness"]),
    (
        "curator-store",
        &["curator-election", "curator-proto", "xtask", "curator-harness"],
    ),
];

/// What the election alone builds without: no gRPC, no protobuf, no etcd client.
const NOT_FOR_THE_ELECTION: &[&str] = &[
    "axum",
    "curator-proto",
    "etcd-client",
    "h2",
    "hyper",
    "prost",
    "protox",
    "rustls",
    "tonic",
];

/// The programs for use.
const PROGRAMS: &[&str] = &["curator", "curatorctl"];

/// Checks all of them.
pub(super) fn check() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (package, forbidden) in FORBIDDEN {
        let tree = tree(package, &["--edges", "normal"])?;
        let found = intruders(&tree, forbidden);
        wrong.extend(found.map(|name| format!("{package} depends on {name}, which it must not")));
    }
    let alone = "--edges normal,build --no-default-features --features embedded,mock,testing";
    let alone: Vec<_> = alone.split(' ').collect();
    let election = tree("curator-election", &alone)?;
    let found = intruders(&election, NOT_FOR_THE_ELECTION);
    wrong.extend(found.map(|name| format!("curator-election without `etcd` and `proto` depends on {name}")));
    for program in PROGRAMS {
        let tree = tree(program, &["--edges", "normal,features"])?;
        let found = test_features(&tree);
        wrong.extend(found.map(|feature| format!("{program} is built with {feature}, which is for tests alone")));
    }
    Ok(wrong)
}

fn tree(package: &str, words: &[&str]) -> Result<String> {
    let all = [&["tree", "--package", package, "--prefix", "none"], words].concat();
    quiet(&format!("list the dependencies of {package}"), cargo(&all))
}

fn intruders<'a>(tree: &'a str, forbidden: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let names: Vec<_> = tree
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    forbidden.iter().copied().filter(move |name| names.contains(name))
}

fn test_features(tree: &str) -> impl Iterator<Item = &str> {
    let of_ours = tree.lines().filter(|line| line.starts_with("curator-"));
    of_ours.filter(|line| {
        [
            "sabotage",
            "simulation",
            "testing",
            "mock",
            "test-identity",
            "measure",
            "enabled",
        ]
        .iter()
        .any(|feature| line.contains(&format!("feature \"{feature}\"")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_for_tests_are_told_from_the_others() {
        let good = "curator-service v0.1.0\ncurator-election feature \"etcd\"\ntokio feature \"testing\"\n";
        assert_eq!(test_features(good).count(), 0);
        let bad = "curator-election feature \"sabotage\"\n";
        assert_eq!(
            test_features(bad).collect::<Vec<_>>(),
            ["curator-election feature \"sabotage\""]
        );
        assert_eq!(test_features("curator-failpoint feature \"enabled\"\n").count(), 1);
    }

    #[test]
    fn the_listener_depends_on_no_intruder() {
        let forbidden = &["etcd-client", "curator-election"];
        let found = |tree| intruders(tree, forbidden).collect::<Vec<_>>();
        assert_eq!(
            found("curator-listener v0.1.0\ntonic v0.14.9\netcd-client-like v1\n"),
            Vec::<&str>::new()
        );
        assert_eq!(
            found("curator-listener v0.1.0\ncurator-election v0.1.0 (x)\netcd-client v0.21.1\n"),
            ["etcd-client", "curator-election"]
        );
    }
}
