//! `cargo xtask ci`: everything that must hold before a change is taken.
use std::time::{Duration, Instant};

use curator_harness::checkout::root;
use curator_harness::error::Result;
use curator_harness::process::{Orphan, bound};
use curator_harness::step;
use curator_harness::which::on_path;

use crate::args::Args;
use crate::cargo::cargo;
use crate::command::Command;
use crate::commands::{api, chaos, fuzz, integration, outside, smoke, test};
use crate::tidy;
use crate::tools::etcd::{Want, select};
use crate::tools::{optional, protoc};
use crate::workspace::{Package, packages};

/// The command.
pub const COMMAND: Command = Command {
    name: "ci",
    summary: "runs all checks and all tests, and stops at the first failure",
    help: "Usage: cargo xtask ci

Checks the format, the lints, the documentation, the public API and the tidiness of the sources, builds each library with each of
its features alone, does what `cargo xtask outside` does, what `cargo xtask test` does, on the oldest and the newest etcd, runs
`cargo xtask fuzz` for half a minute and `cargo xtask chaos` for one minute on each, and, unless all of that has taken more than 40 minutes,
tries the programs that `cargo install` makes.",
    run,
};

/// Trying what `cargo install` makes takes ten minutes more on a small machine.
const ROOM_FOR_INSTALL: Duration = Duration::from_secs(40 * 60);

fn run(args: Args) -> Result<()> {
    args.finish(0)?;
    let began = Instant::now();
    protoc::ensure()?;
    step::run("format", cargo(&["fmt", "--all", "--check"]))?;
    step::timed("tidiness", tidy::check)?;
    step::run(
        "lints",
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    // `--all-targets` passes over what a plain `cargo test` does.
    let lint = [
        &["clippy", "--all-features"],
        integration::TARGET,
        &["--", "-D", "warnings"],
    ]
    .concat();
    step::run("lints of the integration tests", cargo(&lint))?;
    let mut docs = cargo(&["doc", "--workspace", "--all-features", "--no-deps"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step::run("documentation", docs)?;
    api::compare(false)?;
    dependencies()?;
    alerts()?;
    for (name, words) in packages()?.iter().flat_map(feature_builds) {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        step::run(&name, cargo(&words))?;
    }
    outside::run_tests()?;
    test::run_tests(&Want::Ends)?;
    fuzz::run_tests()?;
    // The same faults each time, so that a failure is the change's.
    let play = chaos::Play {
        seed: 1,
        length: Duration::from_secs(60),
        hosts: false,
    };
    for found in select(&Want::Ends)? {
        let version = found.binaries.version().to_owned();
        chaos::run_chaos(&Want::Named(version), play, None)?;
    }
    // The last, since it builds everything once more, with link-time optimization.
    if began.elapsed() > ROOM_FOR_INSTALL {
        step::say(
            "==> what `cargo install` makes: SKIPPED, for this has taken long already (`cargo xtask smoke --installed`)",
        );
        return Ok(());
    }
    smoke::run_installed()
}

/// The alerts for Prometheus, by its own tool: that they can be read, and that they fire when they should and else not.
fn alerts() -> Result<()> {
    if on_path("promtool").is_none() {
        step::say("==> alerts: SKIPPED, for there is no promtool (it comes with Prometheus)");
        return Ok(());
    }
    for (name, words) in [
        (
            "alerts can be read",
            ["check", "rules", "deploy/prometheus/alerts.yaml"],
        ),
        ("alerts fire", ["test", "rules", "deploy/prometheus/tests.yaml"]),
    ] {
        let mut promtool = bound("promtool", Orphan::Kill);
        promtool.args(words).current_dir(root());
        step::run(name, promtool)?;
    }
    Ok(())
}

/// What the dependencies may be. Known faults are looked up where their list can be had, which is not everywhere.
fn dependencies() -> Result<()> {
    if !optional::has_deny() {
        step::say("==> dependencies: SKIPPED, for there is no cargo-deny (`cargo install cargo-deny`)");
        return Ok(());
    }
    step::run("dependencies", cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
    if step::quiet("fetch the list of known faults", cargo(&["deny", "fetch", "db"])).is_err() {
        step::say("==> known faults of dependencies: NOT CHECKED, for their list cannot be had here");
        return Ok(());
    }
    step::run("known faults of dependencies", cargo(&["deny", "check", "advisories"]))?;
    Ok(())
}

/// A check of the package without features, and one with each of them alone. Clippy has seen all of them together.
fn feature_builds(package: &Package) -> Vec<(String, Vec<String>)> {
    if package.features.is_empty() || !package.published {
        return Vec::new();
    }
    let base = ["check", "-p", &package.name, "--no-default-features"]
        .map(str::to_owned)
        .to_vec();
    let mut builds = vec![(format!("{} without features", package.name), base.clone())];
    for feature in &package.features {
        let words = base
            .iter()
            .cloned()
            .chain(["--features".to_owned(), feature.clone()])
            .collect();
        builds.push((format!("{} with `{feature}` alone", package.name), words));
    }
    builds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_built_alone() {
        let package = Package {
            name: "p".to_owned(),
            features: vec!["a".to_owned(), "b".to_owned()],
            published: true,
        };
        let builds: Vec<_> = feature_builds(&package)
            .into_iter()
            .map(|(_, words)| words.join(" "))
            .collect();
        assert_eq!(
            builds,
            [
                "check -p p --no-default-features",
                "check -p p --no-default-features --features a",
                "check -p p --no-default-features --features b"
            ]
        );
        assert_eq!(
            feature_builds(&Package {
                name: "p".to_owned(),
                features: Vec::new(),
                published: true,
            }),
            []
        );
        let own = Package {
            published: false,
            ..package
        };
        assert_eq!(
            feature_builds(&own),
            [],
            "nobody builds those of our own with one feature"
        );
    }
}
