//! The context file of `curatorctl`: concurrent changes, and a symbolic link.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use curator_harness::TempDir;

fn curatorctl(config: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curatorctl"));
    command.arg("--config").arg(config).args(words);
    command
}

#[test]
fn contexts_that_are_set_at_once_are_all_there() {
    let scratch = TempDir::new("contexts").unwrap();
    let real = scratch.path().join("elsewhere").join("contexts.toml");
    fs::create_dir(real.parent().unwrap()).unwrap();
    fs::write(&real, "").unwrap();
    let config = scratch.path().join("config.toml");
    std::os::unix::fs::symlink(&real, &config).unwrap();
    let setting: Vec<_> = (0..20)
        .map(|number| {
            let name = format!("c{number}");
            let set = ["context", "set", &name, "--endpoint", "192.0.2.1:7835"];
            curatorctl(&config, &set)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for set in setting {
        let ended = set.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    let listed = curatorctl(&config, &["context", "list"]).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    for number in 0..20 {
        assert!(text.lines().any(|line| line.contains(&format!("c{number} "))), "{text}");
    }
    // The link is kept; its target has the contexts.
    assert!(fs::symlink_metadata(&config).unwrap().file_type().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("c19"));
}
