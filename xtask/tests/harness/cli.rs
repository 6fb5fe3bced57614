//! What a person sees who types something wrong, or asks for help.

use std::process::{Command, Output};

fn xtask(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(words).output().unwrap()
}

fn refused(words: &[&str]) -> String {
    let output = xtask(words);
    assert_eq!(output.status.code(), Some(2), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn mistakes_end_with_code_2_and_say_what_is_right() {
    assert!(refused(&[]).contains("Usage: cargo xtask COMMAND"));
    assert!(refused(&["deploy"]).contains(
        "there are setup, up, test, examples, fuzz, sim, smoke, integration, upgrade, chaos, api, package, outside, bench, ci"
    ));
    assert!(refused(&["help", "deploy"]).contains("unknown command `deploy`"));
    assert!(refused(&["up", "--tll", "5s"]).contains("it has --ttl, --etcd, --for, --embedded"));
    for command in ["up", "chaos"] {
        assert!(refused(&[command, "--etcd", "all"]).contains("--etcd newest"));
    }
    assert!(refused(&["bench", "state", "--etcd", "ends"]).contains("--etcd newest"));
    assert!(refused(&["up", "--etcd", "3.4", "--embedded"]).contains("`--embedded` for none"));
    assert!(refused(&["setup", "--only", "etcd"]).contains("`protoc` alone"));
    assert!(refused(&["integration", "--etcd", "new"]).contains("`newest`, `ends` or `all`"));
    assert!(refused(&["integration", "a", "b"]).contains("unexpected argument `b`"));
    assert!(refused(&["upgrade", "--from", "no-commit"]).contains("no commit that this checkout has"));
    assert!(refused(&["bench", "--tls"]).contains("cargo xtask bench --help"));
    assert!(refused(&["bench", "backward"]).contains("cargo xtask bench --help"));
    assert!(refused(&["bench", "forward", "--only", "x"]).contains("no such workload"));
    assert!(refused(&["setup", "now"]).contains("no plain argument"));
}

#[test]
fn help_is_there_for_each_command() {
    let overview = String::from_utf8(xtask(&["help"]).stdout).unwrap();
    for command in xtask::cli::COMMANDS {
        assert!(overview.contains(command.name) && overview.contains(command.summary));
        for words in [["help", command.name], [command.name, "--help"]] {
            let output = xtask(&words);
            assert!(output.status.success());
            assert!(
                String::from_utf8(output.stdout)
                    .unwrap()
                    .starts_with(&format!("Usage: cargo xtask {}", command.name))
            );
        }
    }
}
