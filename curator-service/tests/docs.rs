//! Each command that the documents show is one that there is, with the flags that they give it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![root.join("README.md"), root.join("SECURITY.md")];
    for entry in fs::read_dir(root.join("docs")).expect("there are documents") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// The commands in the blocks of a document that are for a shell, each on one line.
fn commands(text: &str) -> Vec<String> {
    let (mut all, mut shell, mut line) = (Vec::new(), false, String::new());
    for raw in text.lines() {
        if let Some(language) = raw.trim().strip_prefix("```") {
            // What follows the language is for the tests that run the block.
            let language = language.split_whitespace().next().unwrap_or_default();
            shell = !shell && matches!(language, "sh" | "console" | "bash");
            continue;
        }
        if !shell {
            // In the text, between backticks; what is in others' places there is in capitals, or in brackets.
            let marked = raw.split('`').skip(1).step_by(2);
            let whole = |code: &&str| !code.contains(['|', '[', '…']) && code.contains(' ');
            all.extend(marked.filter(whole).map(str::to_owned));
            continue;
        }
        let part = raw.trim().trim_start_matches("$ ");
        match part.strip_suffix('\\') {
            Some(begun) => line.push_str(begun),
            None => all.push(std::mem::take(&mut line) + part),
        }
    }
    all
}

/// The words as a shell would make them of it, up to where another command or a comment begins.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('&' | '|' | ';' | '>' | '<', None) => break,
            ('#', None) if word.is_none() => break,
            (' ', None) => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Which of our programs it calls, and with what; variables may stand before it.
fn ours(line: &str) -> Option<(&'static str, Vec<String>)> {
    let words = words(line);
    let is_variable = |word: &String| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let mut rest = words.into_iter().skip_while(is_variable);
    let program = match rest.next()?.rsplit('/').next()? {
        "curator" => env!("CARGO_BIN_EXE_curator"),
        "curatorctl" => env!("CARGO_BIN_EXE_curatorctl"),
        _ => return None,
    };
    Some((program, rest.collect()))
}

#[test]
fn each_command_in_the_documents_is_one_that_there_is() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for line in commands(&text) {
            let Some((program, arguments)) = ours(&line) else {
                continue;
            };
            if line.contains("--otlp-endpoint") && !cfg!(feature = "otlp") {
                continue;
            }
            checked += 1;
            // All before it is looked at first, and nothing is done.
            let output = Command::new(program).args(&arguments).arg("--help").output().unwrap();
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                wrong.push(format!("{}: {line}\n{said}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 20, "only {checked} commands were found in the documents");
}

#[test]
fn a_flag_that_there_is_not_is_found() {
    let (program, arguments) = ours("A=b curator serve --no-such-flag 1 --help &").unwrap();
    assert_eq!(arguments, ["serve", "--no-such-flag", "1", "--help"]);
    assert!(!Command::new(program).args(arguments).output().unwrap().status.success());
    assert_eq!(words("a 'b c'  \"d\"e # f"), ["a", "b c", "de"]);
    assert_eq!(
        commands("```sh\n$ a \\\n  b\n```\nc `d e` f\n```json\nd\n```"),
        ["a b", "d e"]
    );
}
