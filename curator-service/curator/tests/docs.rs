//! Each command of `curator` that the documents show is one that there is, with the flags that they give it.

use std::process::Command;

use curator_harness::documents::try_commands;

const PROGRAM: &str = env!("CARGO_BIN_EXE_curator");

#[test]
fn each_command_in_the_documents_is_one_that_there_is() {
    let checked = try_commands(
        "curator",
        PROGRAM,
        &if cfg!(feature = "otlp") {
            vec![]
        } else {
            vec!["--otlp-endpoint"]
        },
    )
    .unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(checked > 10, "only {checked} commands were found in the documents");
}

#[test]
fn a_flag_that_there_is_not_is_found() {
    let output = Command::new(PROGRAM)
        .args(["serve", "--no-such-flag", "1", "--help"])
        .output()
        .unwrap();
    assert!(!output.status.success());
}
