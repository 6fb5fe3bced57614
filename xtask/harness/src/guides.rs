//! The blocks of the documents that are for a shell: which of them a test runs, and why the others are not run.
//!
//! The words after a fence's language say it: nothing, for a block that is run whole by the test of its document;
//! `until ctrl-c`, for one that is run and then stopped; `not run:` and why, for all else.

use std::collections::BTreeSet;

/// The documents whose blocks are run, and by which test.
const RUN: &[(&str, &str)] = &[
    ("README.md", "the_readme_is_done_as_it_is_written"),
    ("docs/getting-started.md", "getting_started_is_done_as_it_is_written"),
    ("docs/filters.md", "getting_started_is_done_as_it_is_written"),
    (
        "docs/running-three-nodes.md",
        "three_nodes_are_made_and_a_member_of_etcd_is_replaced_as_the_guides_have_it",
    ),
    (
        "docs/etcd-members.md",
        "three_nodes_are_made_and_a_member_of_etcd_is_replaced_as_the_guides_have_it",
    ),
];

/// The languages of blocks that are for a shell.
const SHELLS: &[&str] = &["sh", "bash", "console", "shell"];
/// The languages of what is no command: what is printed, files, drawings.
const OTHERS: &[&str] = &["text", "toml", "rust", "json", "yaml", "ini"];

/// A block that is for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line that it begins at.
    pub line: usize,
    /// What the fence says after the language.
    pub note: String,
    /// What is in it.
    pub text: String,
}

impl Block {
    /// Whether a test runs it.
    #[must_use]
    pub fn is_run(&self) -> bool {
        !self.note.starts_with("not run:")
    }
}

/// All blocks of a document that are for a shell.
#[must_use]
pub fn blocks(document: &str) -> Vec<Block> {
    fences(document)
        .into_iter()
        .filter(|(language, _)| SHELLS.contains(&language.as_str()))
        .map(|(_, block)| block)
        .collect()
}

/// All blocks between fences, with their languages.
fn fences(document: &str) -> Vec<(String, Block)> {
    let (mut all, mut open) = (Vec::new(), None::<(String, Block)>);
    for (number, line) in document.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => all.extend(open.take()),
            (Some(info), None) => {
                let (language, note) = info.trim().split_once(' ').unwrap_or((info.trim(), ""));
                let block = Block {
                    line: number + 1,
                    note: note.trim().to_owned(),
                    text: String::new(),
                };
                open = Some((language.to_owned(), block));
            }
            (None, Some((_, block))) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    all
}

/// What is wrong with the blocks of a document, given the names of all tests.
#[must_use]
pub fn check(name: &str, document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let test = RUN.iter().find(|(run, _)| *run == name).map(|(_, test)| *test);
    if let Some(test) = test.filter(|test| !tests.contains(*test)) {
        wrong.push(format!(
            "{name} is to be run by the test `{test}`, which does not exist"
        ));
    }
    for (language, block) in fences(document) {
        let at = format!("{name}:{}", block.line);
        if !SHELLS.contains(&language.as_str()) {
            if !OTHERS.contains(&language.as_str()) {
                wrong.push(format!(
                    "{at}: {language:?} is no language of a block here: sh, or one of {}",
                    OTHERS.join(", ")
                ));
            }
            continue;
        }
        match block.note.strip_prefix("not run:").map(str::trim) {
            Some("") => wrong.push(format!("{at}: say why it is not run")),
            Some(_) => {}
            None if !["", "until ctrl-c"].contains(&block.note.as_str()) => {
                wrong.push(format!("{at}: {:?} is no note on a block", block.note));
            }
            None if test.is_none() => wrong.push(format!(
                "{at}: no test runs this block: add the document to those that `guide.rs` does, or say `not run:` and why"
            )),
            None => {}
        }
    }
    // A block without a fence says nothing of itself.
    let mut fenced = false;
    for (number, line) in document.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let program = line.strip_prefix("    ").and_then(|line| line.split(' ').next());
        if !fenced
            && program.is_some_and(|program| ["cargo", "curator", "curatorctl", "etcd", "etcdctl"].contains(&program))
        {
            wrong.push(format!("{name}:{}: put commands between fences", number + 1));
        }
    }
    wrong
}

/// Whether it is a document that is read by those who run the Curator.
#[must_use]
pub fn is_guide(path: &str) -> bool {
    let documented = path.starts_with("docs/") || path == "README.md" || path == "SECURITY.md";
    documented && path.ends_with(".md")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(name: &str, document: &str) -> Vec<String> {
        let tests = RUN.iter().map(|(_, test)| (*test).to_owned()).collect();
        check(name, document, &tests)
    }

    #[test]
    fn blocks_are_found_with_what_is_said_of_them() {
        let text = "a\n```sh not run: it is long\nx\n```\n```text\nsh\n```\n```sh\n  y \\\nz\n```\n";
        let found = blocks(text);
        assert_eq!(found.len(), 2);
        assert!(!found[0].is_run() && found[1].is_run(), "{found:?}");
        assert_eq!((found[1].line, &*found[1].text), (8, "  y \\\nz\n"));
    }

    #[test]
    fn a_block_that_nothing_runs_is_found() {
        assert_eq!(wrong("README.md", "```sh\na\n```\n"), Vec::<String>::new());
        let good = "```sh not run: why\na\n```\n```text\nb\n```\n";
        assert_eq!(wrong("docs/other.md", good), Vec::<String>::new());
        for (name, document, says) in [
            ("docs/other.md", "```sh\na\n```\n", "no test runs this block"),
            ("README.md", "```sh not run:\na\n```\n", "say why"),
            ("README.md", "```sh perhaps\na\n```\n", "no note"),
            ("README.md", "```\na\n```\n", "no language"),
            ("README.md", "    curator serve\n", "between fences"),
        ] {
            let wrong = wrong(name, document);
            assert!(wrong.len() == 1 && wrong[0].contains(says), "{document}: {wrong:?}");
        }
        let gone = check("README.md", "", &BTreeSet::new());
        assert!(gone[0].contains("which does not exist"), "{gone:?}");
    }
}
