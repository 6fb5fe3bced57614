//! `curator export` and `curator import` as an operator meets them: what is no cluster, and what must not be read by others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use curator_harness::Scratch;
use curator_harness::process::{Finished, run};

const SOON: Duration = Duration::from_secs(60);

fn curator(command: &str, words: &[&str], paths: &[&Path]) -> Finished {
    let mut program = Command::new(env!("CARGO_BIN_EXE_curator"));
    program.arg(command).args(paths).args(words);
    run(program, SOON).unwrap()
}

fn refused(finished: &Finished) -> &str {
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    &finished.stderr
}

/// A cluster in a directory, exported into a file.
fn exported(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let (state, out) = (scratch.path().join("state"), scratch.path().join("out"));
    let key = "01".repeat(32);
    let keys = [
        "--node-public-key",
        &key,
        "--join-public-key",
        &key,
        "--owner-public-key",
        &key,
    ];
    let at = ["--embedded".as_ref(), &*state];
    assert!(curator("bootstrap", &keys, &at).status.success());
    let all = [at[0], at[1], "--out".as_ref(), &*out];
    assert!(curator("export", &[], &all).status.success());
    (state, out)
}

#[test]
fn what_is_no_cluster_is_not_exported_and_nothing_is_left_behind() {
    let scratch = Scratch::new("export-none").unwrap();
    let (state, _) = exported(&scratch);
    let (nowhere, out) = (scratch.path().join("typo"), scratch.path().join("never"));
    let finished = curator(
        "export",
        &[],
        &["--embedded".as_ref(), &nowhere, "--out".as_ref(), &out],
    );
    assert!(
        refused(&finished).contains("no store was made in this directory"),
        "{finished:?}"
    );
    assert!(!nowhere.exists(), "it was made");
    let words = ["--etcd-namespace", "namespaced:typo"];
    let finished = curator(
        "export",
        &words,
        &["--embedded".as_ref(), &state, "--out".as_ref(), &out],
    );
    assert!(
        refused(&finished).contains("there is no cluster in this store"),
        "{finished:?}"
    );
    assert!(
        !out.exists() && !out.with_extension("partial").exists(),
        "something is left"
    );
}

#[test]
fn what_a_killed_export_has_left_is_named_and_nothing_is_written_over() {
    let scratch = Scratch::new("export-again").unwrap();
    let (state, out) = exported(&scratch);
    let before = fs::read(&out).unwrap();
    let at = ["--embedded".as_ref(), &*state, "--out".as_ref()];
    let finished = curator("export", &[], &[&at[..], &[&out]].concat());
    assert!(refused(&finished).contains("choose another file"), "{finished:?}");
    assert_eq!(fs::read(&out).unwrap(), before);
    let again = scratch.path().join("again");
    fs::write(again.with_extension("partial"), "half").unwrap();
    let finished = curator("export", &[], &[&at[..], &[&again]].concat());
    assert!(
        refused(&finished).contains("remove that file and try again"),
        "{finished:?}"
    );
    assert!(!again.exists());
    fs::remove_file(again.with_extension("partial")).unwrap();
    assert!(curator("export", &[], &[&at[..], &[&again]].concat()).status.success());
    assert!(!again.with_extension("partial").exists(), "it is left behind");
}

#[test]
fn export_that_others_may_read_is_not_imported() {
    let scratch = Scratch::new("import-open").unwrap();
    let (_, out) = exported(&scratch);
    let copy = scratch.path().join("copy");
    let all = [&*out, "--embedded".as_ref(), &*copy];
    fs::set_permissions(&out, fs::Permissions::from_mode(0o644)).unwrap();
    let finished = curator("import", &[], &all);
    let told = refused(&finished);
    assert!(told.contains("(mode 644)") && told.contains("chmod 600"), "{told}");
    assert!(!copy.exists(), "a store was made");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(curator("import", &[], &all).status.success());
}

#[test]
fn serve_refuses_a_store_that_is_not_of_its_credentials() {
    let scratch = Scratch::new("foreign-state").unwrap();
    let at = |name: &str| scratch.path().join(name);
    for name in ["one", "other"] {
        let (state, credentials) = (at(name), at(&format!("{name}.credentials")));
        let made = curator(
            "bootstrap",
            &[],
            &["--embedded".as_ref(), &state, "--credentials".as_ref(), &credentials],
        );
        assert!(made.status.success(), "{made:?}");
    }
    let serve = |state: &str| {
        let (state, credentials) = (at(state), at("one.credentials"));
        let served = curator(
            "serve",
            &["--advertise", "localhost:7835", "--listen", "127.0.0.1:0"],
            &["--embedded".as_ref(), &state, "--credentials".as_ref(), &credentials],
        );
        assert_eq!(served.status.code(), Some(2), "{served:?}");
        served.stderr
    };
    // As where a disk is not mounted.
    let none = serve("none");
    assert!(none.contains("no store was made in this directory"), "{none}");
    assert!(!at("none").exists(), "it was made");
    let other = serve("other");
    assert!(other.contains("another certificate authority"), "{other}");
    // One that was made, and in which no cluster is: an import that ended too soon.
    let (made, file) = (at("made"), at("one.export"));
    let paths: [&Path; 4] = ["--embedded".as_ref(), &at("one"), "--out".as_ref(), &file];
    assert!(curator("export", &[], &paths).status.success());
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let halved = curator("import", &[], &["--embedded".as_ref(), &made, &file]);
    assert_eq!(halved.status.code(), Some(1), "{halved:?}");
    let half = serve("made");
    assert!(half.contains("there is no cluster in the store"), "{half}");
}

/// The address is one of those for documents, which nobody has.
#[test]
fn import_warns_of_a_plaintext_etcd_beyond_this_host() {
    let scratch = Scratch::new("plaintext").unwrap();
    let (_, out) = exported(&scratch);
    for (endpoint, warns) in [("http://192.0.2.1:2379", true), ("http://127.0.0.1:1", false)] {
        let finished = curator("import", &["--etcd-endpoints", endpoint], &[&out]);
        let said = refused(&finished);
        assert_eq!(said.contains("warning: etcd is reached without TLS"), warns, "{said}");
    }
}
