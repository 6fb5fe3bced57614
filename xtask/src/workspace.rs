//! How the cargo of this workspace is called, and the programs that it builds.
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use curator_harness::checkout::root;
use curator_harness::error::{Context, Error, Result};
use serde_json::Value;

use crate::cargo::cargo;

/// A program of the workspace that the harness runs.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    package: &'static str,
    /// What cargo calls its kind.
    kind: &'static str,
    name: &'static str,
    /// Whether speed is what it is for.
    release: bool,
    /// With this feature of its package, if any.
    feature: Option<&'static str>,
}

/// The service itself.
pub const CURATOR: Program = Program {
    package: "curator",
    kind: "--bin",
    name: "curator",
    release: false,
    // It does nothing as long as no collector is named.
    feature: Some("curator/otlp"),
};

/// The operator's tool.
pub const CURATORCTL: Program = Program {
    package: "curatorctl",
    kind: "--bin",
    name: "curatorctl",
    release: false,
    feature: Some("curator/otlp"),
};

/// The service with the leader's `Echo`, which can be called through any instance.
pub const EMBED: Program = Program {
    package: "curator-loads",
    kind: "--bin",
    name: "embed-server",
    release: false,
    feature: None,
};

/// Where [`EMBED`] was before it was one of the loads.
pub const EMBED_BEFORE: Program = Program {
    package: "curator-service",
    kind: "--example",
    name: "embed",
    release: false,
    feature: None,
};

/// The same, to be measured.
pub const EMBED_RELEASE: Program = Program { release: true, ..EMBED };

/// The listener in front of `Echo`, to be measured.
pub const FRONT: Program = Program {
    package: "curator-loads",
    kind: "--bin",
    name: "front-server",
    release: true,
    feature: None,
};

/// Calls of `Echo` at several instances, to be looked at.
pub const ECHO_CALLS: Program = Program {
    package: "curator-loads",
    kind: "--bin",
    name: "echo-calls",
    release: false,
    feature: None,
};

/// The load on `Echo`, to measure with.
pub const ECHO_LOAD: Program = Program {
    package: "curator-loads",
    kind: "--bin",
    name: "echo-load",
    release: true,
    feature: None,
};

/// The calls whose history is checked.
pub const CHAOS_LOAD: Program = Program {
    package: "curator-loads",
    kind: "--bin",
    name: "chaos-load",
    release: false,
    feature: None,
};

/// The measuring of the leader's state.
pub const STATE_LOAD: Program = Program {
    package: "curator-loads",
    kind: "--bin",
    name: "state-load",
    release: true,
    feature: Some("measure"),
};

/// The clients of a big cluster.
pub const STORM: Program = Program {
    package: "curator-loads",
    kind: "--bin",
    name: "storm",
    release: true,
    feature: None,
};

/// The same, built sooner.
pub const STORM_QUICK: Program = Program {
    release: false,
    ..STORM
};

/// The packages of the programs for use.
const PROGRAMS: &[&str] = &["curator", "curatorctl"];
/// The package of the servers and clients for tests.
const LOADS: &str = "curator-loads";

/// Builds a program and says where it is. Cargo's own messages go to stderr.
///
/// # Errors
/// When the build fails.
pub fn build(program: Program) -> Result<PathBuf> {
    build_as(program, |_| {})
}

/// Builds a program as users get it, with the profile `shipped`, and says where it is.
///
/// # Errors
/// When the build fails.
pub fn build_shipped(program: Program) -> Result<PathBuf> {
    build_as(program, |command| {
        command.args(["--profile", "shipped"]);
    })
}

/// Builds a program of another checkout, in a target folder of its own, and says where it is.
///
/// # Errors
/// When the build fails.
pub fn build_elsewhere(program: Program, checkout: &Path, target: &Path) -> Result<PathBuf> {
    build_as(program, |command| {
        command.arg("--target-dir").arg(target).current_dir(checkout);
        // Cargo has set it for us; if we were started by hand, the checkout's own would have none of what we have
        // brought.
        command.env(
            "PROTOC",
            env::var_os("PROTOC").unwrap_or_else(|| root().join("tools/protoc").into()),
        );
    })
}

fn build_as(program: Program, change: impl FnOnce(&mut Command)) -> Result<PathBuf> {
    let Program {
        package,
        kind,
        name,
        release,
        feature,
    } = program;
    crate::tools::protoc::ensure()?;
    let mut command = cargo(&["build", "-p", package, kind, name]);
    let together = !release && (PROGRAMS.contains(&package) || package == LOADS);
    if together {
        // Selected together, so that all are built on dependencies with the same features: once.
        command.args(
            PROGRAMS
                .iter()
                .filter(|other| **other != package)
                .flat_map(|other| ["-p", *other]),
        );
    }
    command.args(["--message-format", "json-render-diagnostics"]);
    command.args(release.then_some("--release"));
    let feature = feature.or(together.then_some("curator/otlp"));
    if let Some(feature) = feature {
        command.args(["--features", feature]);
    }
    change(&mut command);
    let output = curator_harness::step::output(&format!("build {name}"), command)?;
    output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| Error::new(format!("cargo built {package} but named no program called `{name}`")))
}

/// A member of the workspace, as cargo sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its cargo features but `default`, sorted.
    pub features: Vec<String>,
    /// Whether it is for others, and not for this workspace alone.
    pub published: bool,
}

/// The members of the workspace.
///
/// # Errors
/// When cargo cannot say.
pub fn packages() -> Result<Vec<Package>> {
    let text = curator_harness::step::quiet(
        "read the workspace's metadata",
        cargo(&["metadata", "--format-version", "1", "--no-deps"]),
    )?;
    let metadata: Value = serde_json::from_str(&text).context(|| "cargo metadata printed no JSON".to_owned())?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or_else(|| Error::new("cargo metadata names no packages"))?;
    Ok(packages
        .iter()
        .filter_map(|package| {
            let features = package["features"].as_object()?;
            Some(Package {
                name: package["name"].as_str()?.to_owned(),
                features: features.keys().filter(|name| *name != "default").cloned().collect(),
                // `publish = false` is a list of no registries.
                published: package["publish"]
                    .as_array()
                    .is_none_or(|registries| !registries.is_empty()),
            })
        })
        .collect())
}
