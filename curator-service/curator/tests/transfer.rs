//! `curator export` and `curator import` as an operator meets them: what is no cluster, and what must not be read by
//! others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use curator_harness::TempDir;
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
fn exported(scratch: &TempDir) -> (PathBuf, PathBuf) {
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
    let scratch = TempDir::new("export-none").unwrap();
    let (state, _) = exported(&scratch);
    let (nowhere, out) = (scratch.path().join("typo"), scratch.path().join("never"));
    let finished = curator(
        "export",
        &[],
        &["--embedded".as_ref(), &nowhere, "--out".as_ref(), &out],
    );
    assert!(
        refused(&finished).contains("no store in this directory"),
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
        refused(&finished).contains("no complete cluster in this store"),
        "{finished:?}"
    );
    assert!(
        !out.exists() && !out.with_extension("partial").exists(),
        "something is left"
    );
}

#[test]
fn what_a_killed_export_has_left_is_named_and_nothing_is_written_over() {
    let scratch = TempDir::new("export-again").unwrap();
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
        refused(&finished).contains("remove the file and try again"),
        "{finished:?}"
    );
    assert!(!again.exists());
    fs::remove_file(again.with_extension("partial")).unwrap();
    assert!(curator("export", &[], &[&at[..], &[&again]].concat()).status.success());
    assert!(!again.with_extension("partial").exists(), "it is left behind");
}

#[test]
fn export_that_others_may_read_is_not_imported() {
    let scratch = TempDir::new("import-open").unwrap();
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
fn inspect_shows_of_which_cluster_a_file_is_and_whether_it_is_whole() {
    let scratch = TempDir::new("inspect").unwrap();
    let (_, out) = exported(&scratch);
    let shown = curator("inspect", &[], &[&out]);
    assert!(shown.status.success(), "{shown:?}");
    let value = |name: &str| {
        let line = shown.stdout.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {}", shown.stdout))
            .trim()
            .to_owned()
    };
    assert_eq!(value("cluster").len(), 64, "{}", shown.stdout);
    assert_eq!((&*value("domain"), &*value("nodes")), ("cluster.internal", "1"));
    assert!(value("time").ends_with('Z') && value("revision").parse::<u64>().is_ok());
    assert!(value("whole").starts_with("yes"));

    let whole = fs::read(&out).unwrap();
    fs::write(&out, &whole[..whole.len() - 10]).unwrap();
    let told = curator("inspect", &[], &[&out]);
    assert!(refused(&told).contains("not a complete export"), "{told:?}");
}

#[test]
fn a_failed_import_or_bootstrap_leaves_nothing_behind() {
    let scratch = TempDir::new("import-none").unwrap();
    let (_, out) = exported(&scratch);
    let whole = fs::read_to_string(&out).unwrap();
    let (into, file) = (scratch.path().join("new").join("state"), scratch.path().join("bent"));
    let paths: [&Path; 3] = [&file, "--embedded".as_ref(), &into];
    let write = |text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    // Found before anything is made.
    write(&whole[..whole.len() / 2]);
    assert!(refused(&curator("import", &[], &paths)).contains("not a complete export"));
    assert!(!into.parent().unwrap().exists());
    let words = ["--credentials", "/dev/null/none"];
    assert!(!curator("bootstrap", &words, &[&paths[1..]].concat()).status.success());
    assert!(!into.parent().unwrap().exists());
    let credentials = scratch.path().join("credentials");
    let all = [paths[1], paths[2], "--credentials".as_ref(), &*credentials];
    let failed = curator("bootstrap", &["--label", "-=x"], &all);
    assert_eq!(failed.status.code(), Some(2), "{failed:?}");
    assert!(!into.parent().unwrap().exists() && !credentials.exists(), "{failed:?}");
    // Nothing is in the way of the next attempt.
    assert!(curator("bootstrap", &[], &all).status.success());
}

/// As after a kill before the certificates are written.
#[test]
fn a_bootstrap_that_was_interrupted_is_finished_by_running_it_again() {
    let scratch = TempDir::new("bootstrap-again").unwrap();
    let (state, credentials) = (scratch.path().join("state"), scratch.path().join("credentials"));
    let paths: [&Path; 4] = ["--embedded".as_ref(), &state, "--credentials".as_ref(), &credentials];
    assert!(curator("bootstrap", &[], &paths).status.success());
    let read = |name: &str| fs::read(credentials.join(name)).unwrap();
    let (ca, node) = (read("ca.pem"), read("node.pem"));
    for lost in [&["node.pem"][..], &["ca.pem", "node.pem"]] {
        for name in lost {
            fs::remove_file(credentials.join(name)).unwrap();
        }
        let again = curator("bootstrap", &[], &paths);
        assert!(again.status.success(), "{again:?}");
        assert!(again.stdout.contains("created by an earlier run"), "{again:?}");
        assert_eq!((read("ca.pem"), read("node.pem")), (ca.clone(), node.clone()));
    }
    let whole = curator("bootstrap", &[], &paths);
    assert_eq!(whole.status.code(), Some(2), "{whole:?}");
    // Part of the credentials of another cluster is in the way of a new one, and no cluster is made.
    fs::remove_file(credentials.join("node.pem")).unwrap();
    let elsewhere = scratch.path().join("elsewhere");
    let paths: [&Path; 4] = ["--embedded".as_ref(), &elsewhere, paths[2], paths[3]];
    let other = curator("bootstrap", &[], &paths);
    assert!(refused(&other).contains("exists"), "{other:?}");
    assert!(!elsewhere.exists());
}

/// What a kill in the middle of an import leaves is marked, so nobody takes it for a cluster.
#[test]
fn a_store_with_a_half_import_is_refused_by_all_until_it_is_resumed() {
    let scratch = TempDir::new("import-half").unwrap();
    let (_, out) = exported(&scratch);
    let half = scratch.path().join("half");
    half_imported(&half);
    let at: [&Path; 2] = ["--embedded".as_ref(), &half];
    let never = scratch.path().join("never");
    let key = "01".repeat(32);
    let keys = [
        "--node-public-key",
        &key,
        "--join-public-key",
        &key,
        "--owner-public-key",
        &key,
    ];
    for finished in [
        curator("export", &["--out", never.to_str().unwrap()], &at),
        curator("bootstrap", &keys, &at),
        curator("serve", &["--listen", "127.0.0.1:0"], &at),
    ] {
        assert!(!finished.status.success(), "{finished:?}");
        let told = format!("{}{}", finished.stderr, finished.stdout);
        assert!(told.contains("`curator import --resume FILE`"), "{told}");
    }
    let fresh = curator("import", &[], &[&[&*out], &at[..]].concat());
    assert!(refused(&fresh).contains("--resume"), "{fresh:?}");
    let resumed = curator("import", &["--resume"], &[&[&*out], &at[..]].concat());
    assert!(resumed.status.success(), "{resumed:?}");
    let exported = curator("export", &["--out", never.to_str().unwrap()], &at);
    assert!(exported.status.success(), "{exported:?}");
}

/// The mark that is written before all else of an import.
fn half_imported(directory: &Path) {
    use curator_election::store::{Op, Store as _, Txn};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let namespace = "namespaced:curator".parse().unwrap();
    let store = curator_service::open_embedded(directory, namespace).unwrap();
    let mark = Txn::default().then(vec![Op::put("/import/unfinished", "digest")]);
    runtime.block_on(store.txn(mark)).unwrap();
}

#[test]
fn serve_refuses_a_store_that_is_not_of_its_credentials() {
    let scratch = TempDir::new("foreign-state").unwrap();
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
    assert!(none.contains("no store in this directory"), "{none}");
    assert!(!at("none").exists(), "it was made");
    let other = serve("other");
    assert!(other.contains("different certificate authorities"), "{other}");
    // One that was made, and in which no cluster is: an import that ended too soon.
    let (made, file) = (at("made"), at("one.export"));
    let paths: [&Path; 4] = ["--embedded".as_ref(), &at("one"), "--out".as_ref(), &file];
    assert!(curator("export", &[], &paths).status.success());
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let halved = curator("import", &[], &["--embedded".as_ref(), &made, &file]);
    assert_eq!(halved.status.code(), Some(1), "{halved:?}");
    assert!(!made.exists(), "a file that is not whole has made a store");
    half_imported(&made);
    let half = serve("made");
    assert!(half.contains("curator import --resume"), "{half}");
}

/// The address is one of those for documents, which nobody has.
#[test]
fn import_warns_of_a_plaintext_etcd_beyond_this_host() {
    let scratch = TempDir::new("plaintext").unwrap();
    let (_, out) = exported(&scratch);
    for (endpoint, warns) in [("http://192.0.2.1:2379", true), ("http://127.0.0.1:1", false)] {
        let finished = curator("import", &["--etcd-endpoints", endpoint], &[&out]);
        let said = refused(&finished);
        assert_eq!(said.contains("warning: etcd is reached without TLS"), warns, "{said}");
    }
}
