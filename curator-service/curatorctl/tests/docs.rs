//! Every `curatorctl` command in the documents exists, with the flags that the documents give it.

use std::process::Command;

use curator_harness::documents::try_commands;

const PROGRAM: &str = env!("CARGO_BIN_EXE_curatorctl");

#[test]
fn each_command_in_the_documents_is_one_that_there_is() {
    let checked = try_commands("curatorctl", PROGRAM, &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(checked > 10, "only {checked} commands were found in the documents");
}

#[test]
fn a_flag_that_there_is_not_is_found() {
    let output = Command::new(PROGRAM)
        .args(["status", "--no-such-flag", "1", "--help"])
        .output()
        .unwrap();
    assert!(!output.status.success());
}
