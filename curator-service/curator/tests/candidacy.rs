//! Who may lead: `curator serve` with the credentials of this cluster, and of another one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use curator_harness::process::run;
use curator_harness::{CuratorOptions, CuratorProcess, Mark, TempDir};

const SOON: Duration = Duration::from_secs(60);

/// The state and the first node's credentials of a new cluster.
fn bootstrap(scratch: &TempDir, name: &str) -> [String; 2] {
    let at = |what: &str| scratch.path().join(format!("{name}-{what}")).display().to_string();
    let [state, credentials] = [at("state"), at("credentials")];
    let mut bootstrap = Command::new(env!("CARGO_BIN_EXE_curator"));
    bootstrap.args(["bootstrap", "--embedded", &state, "--credentials", &credentials]);
    let made = run(bootstrap, SOON).unwrap();
    assert!(made.status.success(), "{made:?}");
    [state, credentials]
}

fn serve(scratch: &TempDir, state: &str, credentials: &str) -> CuratorProcess {
    let mut options = CuratorOptions::new(1, Vec::new());
    options.node_id = String::new();
    options.credentials = Some(credentials.into());
    options.extra_args = vec!["--embedded".into(), state.into()];
    CuratorProcess::start(Path::new(env!("CARGO_BIN_EXE_curator")), scratch, options).unwrap()
}

#[test]
fn an_instance_of_no_cluster_or_of_another_one_ends_and_that_of_the_own_one_leads() {
    let scratch = TempDir::new("candidacy").unwrap();
    let [state, credentials] = bootstrap(&scratch, "one");
    let [_, others] = bootstrap(&scratch, "another");
    // A disk that is not mounted, and another cluster.
    for state in [&*scratch.path().join("nothing").display().to_string(), &state] {
        let mut serve = Command::new(env!("CARGO_BIN_EXE_curator"));
        serve.args(["serve", "--embedded", state, "--credentials", &others]);
        serve.args(["--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:1"]);
        let ended = run(serve, SOON).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    }
    let own = serve(&scratch, &state, &credentials);
    own.wait_for_role(Mark::START, SOON, "the cluster's own node to lead", |role| {
        role.is_leader()
    })
    .unwrap();
}

/// Nobody else can open its store meanwhile, so the instance is asked.
#[test]
fn an_instance_that_runs_is_backed_up_and_the_backup_is_whole() {
    let scratch = TempDir::new("backup").unwrap();
    let [state, credentials] = bootstrap(&scratch, "one");
    let own = serve(&scratch, &state, &credentials);
    own.wait_for_role(Mark::START, SOON, "to lead", |role| role.is_leader())
        .unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let curator = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_curator"));
        command.args(args);
        run(command, SOON).unwrap()
    };
    let exported = curator(&["export", "--embedded", &state, "--out", &at("out")]);
    assert!(exported.status.success(), "{exported:?}");
    let shown = curator(&["inspect", &at("out")]);
    assert!(
        shown.status.success() && shown.stdout.contains("nodes     1"),
        "{shown:?}"
    );
    let imported = curator(&["import", "--embedded", &at("copy"), &at("out")]);
    assert!(imported.status.success(), "{imported:?}");
    let restored = serve(&scratch, &at("copy"), &credentials);
    restored
        .wait_for_role(Mark::START, SOON, "the copy to lead", |role| role.is_leader())
        .unwrap();
    let wrong = curator(&[
        "export",
        "--embedded",
        &state,
        "--etcd-namespace",
        "other",
        "--out",
        &at("never"),
    ]);
    assert!(
        !wrong.status.success() && wrong.stderr.contains("--etcd-namespace"),
        "{wrong:?}"
    );
    assert!(!scratch.path().join("never").exists());
}
