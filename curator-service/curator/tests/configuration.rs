//! `curator config check` and `show`, as a user meets them.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use curator_harness::TempDir;
use curator_harness::process::{Finished, run};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

const GOOD: &str = "# An instance beside its member of etcd.\n\
                    node-id = \"node-1\"\n\
                    insecure-loopback-only = true\n\
                    etcd-endpoints = [\"http://127.0.0.1:2379\"]\n\
                    leader-ttl = \"5s\"\n\
                    listen = [\"127.0.0.1:1\", \"[::1]:1\"]\n";

fn file(scratch: &TempDir, text: &str) -> PathBuf {
    let path = scratch.path().join("curator.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn curator(words: &[&str], config: Option<&Path>, env: &[(&str, &str)]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curator"));
    command.env_clear().envs(env.iter().copied()).args(words);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    run(command, SOON).unwrap()
}

fn refused(finished: &Finished) -> &str {
    assert_eq!(finished.status.code(), Some(2), "{finished:?}");
    &finished.stderr
}

#[test]
fn a_good_file_is_good_and_a_bad_one_is_named_with_line_key_and_reason() {
    let scratch = TempDir::new("config-check").unwrap();
    let path = file(&scratch, GOOD);
    let checked = curator(&["config", "check"], Some(&path), &[]);
    assert!(
        checked.status.success() && checked.stdout.contains("valid: "),
        "{checked:?}"
    );
    let at = |line: usize| format!("{}:{line}: ", path.display());
    for (text, line, reason) in [
        (
            format!("{GOOD}leader_tll = \"5s\"\n"),
            7,
            "leader_tll: unknown key: did you mean leader-ttl?",
        ),
        (GOOD.replace("\"5s\"", "5"), 5, "leader-ttl: expected a string"),
        (GOOD.replace("\"5s\"", "\"5\""), 5, "leader-ttl: \"5\": missing unit"),
        (GOOD.replace("= true", "true"), 3, "invalid TOML"),
    ] {
        let path = file(&scratch, &text);
        let checked = curator(&["config", "check"], Some(&path), &[]);
        let told = refused(&checked);
        assert!(
            told.contains(&format!("error: {}", at(line))) && told.contains(reason),
            "{told}"
        );
        // The same by the name in the environment, and at the start of an instance.
        let name = path.to_str().unwrap();
        assert_eq!(
            curator(&["config", "check"], None, &[("CURATOR_CONFIG", name)]).stderr,
            told
        );
        assert_eq!(curator(&["serve"], Some(&path), &[]).stderr, told);
    }
    let missing = curator(&["config", "check"], Some(&scratch.path().join("none.toml")), &[]);
    assert!(refused(&missing).contains("none.toml: "), "{missing:?}");
}

#[test]
fn what_only_all_of_it_can_tell_is_checked_too() {
    let scratch = TempDir::new("config-whole").unwrap();
    for (from, to, reason) in [
        (
            "[\"127.0.0.1:1\", \"[::1]:1\"]",
            "\"0.0.0.0:1\"",
            "not a loopback address",
        ),
        (
            "insecure-loopback-only = true",
            "",
            "required arguments were not provided",
        ),
        ("node-id = \"node-1\"", "node-id = \"a/b\"", "invalid node id"),
        ("leader-ttl", "advertise = \"nowhere\"\nleader-ttl", "use host:port"),
        (
            "http://127.0.0.1:2379",
            "127.0.0.1:2379",
            "for example http://127.0.0.1:2379",
        ),
        (
            "http://127.0.0.1:2379",
            "http://user:hunter2@127.0.0.1:2379",
            "--etcd-password-file",
        ),
        (
            "leader-ttl",
            "etcd-ca = \"ca.pem\"\nleader-ttl",
            "use https in the endpoint",
        ),
        (
            "leader-ttl",
            "credentials = \"/etc/curator\"\nleader-ttl",
            "cannot be used with",
        ),
    ] {
        let path = file(&scratch, &GOOD.replace(from, to));
        let checked = curator(&["config", "check"], Some(&path), &[]);
        assert!(refused(&checked).contains(reason), "{to}: {checked:?}");
        assert!(!checked.stderr.contains("hunter2"), "a password is shown: {checked:?}");
    }
    // With credentials it may listen at every address, and others cannot dial that.
    let text = GOOD
        .replace("insecure-loopback-only = true", "credentials = \"/etc/curator\"")
        .replace("[\"127.0.0.1:1\", \"[::1]:1\"]", "\"0.0.0.0:1\"");
    let checked = curator(&["config", "check"], Some(&file(&scratch, &text)), &[]);
    assert!(refused(&checked).contains("set --advertise"), "{checked:?}");
}

#[test]
fn each_value_is_shown_with_who_says_it() {
    let scratch = TempDir::new("config-show").unwrap();
    let path = file(&scratch, GOOD);
    let env = [
        ("CURATOR_LEADER_TTL", "7s"),
        ("CURATOR_GRACE", "3s"),
        ("CURATOR_HOLD_LIMIT", "9"),
        ("CURATOR_LISTEN", "127.0.0.1:2"),
        ("RUST_LOG", "debug"),
    ];
    let words = ["config", "show", "--grace=4s", "--output=json"];
    let shown = curator(&words, Some(&path), &env).success("config show").unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let file = |line: usize| serde_json::json!({"kind": "file", "path": path.display().to_string(), "line": line});
    let said = |key: &str| (shown[key]["value"].clone(), shown[key]["origin"].clone());
    for (key, value, origin) in [
        ("node-id", Value::from("node-1"), file(2)),
        ("insecure-loopback-only", "true".into(), file(3)),
        (
            "leader-ttl",
            "7s".into(),
            serde_json::json!({"kind": "env", "name": "CURATOR_LEADER_TTL"}),
        ),
        (
            "grace",
            "4s".into(),
            serde_json::json!({"kind": "flag", "name": "--grace"}),
        ),
        // The whole of the weaker list gives way.
        (
            "listen",
            vec!["127.0.0.1:2"].into(),
            serde_json::json!({"kind": "env", "name": "CURATOR_LISTEN"}),
        ),
        (
            "log-filter",
            "debug".into(),
            serde_json::json!({"kind": "env", "name": "RUST_LOG"}),
        ),
        (
            "max-connections",
            "20000".into(),
            serde_json::json!({"kind": "default"}),
        ),
        ("advertise", Value::Null, serde_json::json!({"kind": "default"})),
    ] {
        assert_eq!(said(key), (value, origin), "{key}");
    }

    let table = curator(&["config", "show"], Some(&path), &env)
        .success("config show")
        .unwrap();
    let row = |key: &str| {
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(key));
        row.unwrap_or_else(|| panic!("{table}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(row("leader-ttl"), "leader-ttl 7s env CURATOR_LEADER_TTL");
    assert_eq!(row("node-id"), format!("node-id node-1 file {}:2", path.display()));
    assert_eq!(row("hold-cap"), "hold-cap (leader TTL + 5s) default");
    assert!(
        row("etcd-endpoints").starts_with("etcd-endpoints http://127.0.0.1:2379 file"),
        "{table}"
    );
    // Nor is a password that should not be where it is.
    let secret = "--etcd-endpoints=http://user:hunter2@127.0.0.1:2379";
    for output in ["--output=json", "--output=table"] {
        let shown = curator(&["config", "show", secret, output], Some(&path), &[]);
        assert!(!format!("{shown:?}").contains("hunter2"), "{shown:?}");
    }
}

#[test]
fn a_bad_log_filter_is_refused_wherever_it_comes_from() {
    let scratch = TempDir::new("config-filter").unwrap();
    let path = file(&scratch, GOOD);
    let by_variable = curator(&["config", "check"], Some(&path), &[("RUST_LOG", "inof")]);
    let by_flag = curator(&["config", "check", "--log-filter=inof"], Some(&path), &[]);
    for finished in [by_variable, by_flag] {
        assert!(
            refused(&finished).contains("unknown level \"inof\": expected a level"),
            "{finished:?}"
        );
    }
}

#[test]
fn the_example_and_the_unit_that_are_shipped_go_together() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let example = deploy.join("curator.toml");
    let checked = curator(&["config", "check"], Some(&example), &[]);
    assert!(checked.status.success(), "{checked:?}");
    // What is commented out in it is right as well.
    let scratch = TempDir::new("config-example").unwrap();
    let text = std::fs::read_to_string(&example).unwrap();
    let uncommented: Vec<_> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
            _ => line,
        })
        .collect();
    let all = file(&scratch, &uncommented.join("\n"));
    // Some keys exclude each other, which is said only once each of them is taken.
    let checked = curator(&["config", "check"], Some(&all), &[]);
    assert!(refused(&checked).contains("cannot be used with"), "{checked:?}");

    // Each key is in it, with its default where it has one.
    let shown = curator(&["config", "show", "--output=json"], Some(&example), &[]);
    let shown: Value = serde_json::from_str(&shown.success("config show").unwrap()).unwrap();
    // Not in every build, so that it stands in words.
    assert!(text.contains("otlp-endpoint"));
    for key in shown.as_object().unwrap().keys().filter(|key| *key != "otlp-endpoint") {
        let says = |line: &str| line.split(" = ").next() == Some(key);
        assert!(
            uncommented.iter().any(|line| says(line)),
            "{key} is not in deploy/curator.toml"
        );
    }

    let unit = std::fs::read_to_string(deploy.join("systemd/curator.service")).unwrap();
    let lines: Vec<_> = unit.lines().collect();
    for line in [
        "Type=notify",
        "NotifyAccess=all",
        "WatchdogSec=20",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "ExecStopPost=-/usr/bin/curator release",
    ] {
        assert!(lines.contains(&line), "{line} is not in the unit");
    }
    // Its environment makes a configuration, with the example and without.
    let env = std::fs::read_to_string(deploy.join("systemd/curator.env")).unwrap();
    let mut env: Vec<(&str, &str)> = env.lines().filter_map(|line| line.split_once('=')).collect();
    env.retain(|(name, _)| !name.starts_with('#'));
    env.extend(
        lines
            .iter()
            .filter_map(|line| line.strip_prefix("Environment=")?.split_once('=')),
    );
    let by_file = env.iter().any(|(name, _)| *name == "CURATOR_CONFIG");
    assert!(by_file, "the unit reads the file: {env:?}");
    env.retain(|(name, _)| *name != "CURATOR_CONFIG");
    let checked = curator(&["config", "check"], Some(&example), &env);
    assert!(checked.status.success(), "{checked:?}");
    let shown = curator(&["config", "show"], Some(&example), &env)
        .success("config show")
        .unwrap();
    assert!(shown.contains("env CURATOR_RUNTIME_DIR"), "{shown}");
}
