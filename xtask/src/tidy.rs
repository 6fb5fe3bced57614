//! Checks of the sources that no compiler makes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::{Context, Error, Result};
use crate::harness::process::{Orphan, bound};
use crate::step::quiet;
use crate::workspace::{cargo, root};

/// Runs all of them.
///
/// # Errors
/// With each thing that is not as it should be.
pub fn check() -> Result<()> {
    let mut wrong = Vec::new();
    let mut functions = BTreeSet::new();
    for path in tracked_files()? {
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            // Not text, or removed and not yet committed.
            continue;
        };
        wrong.extend(check_file(&path, &text));
        if path.ends_with(".rs") {
            functions.extend(functions_in(&text).map(str::to_owned));
        }
    }
    let security = root().join("SECURITY.md");
    let security = fs::read_to_string(&security).context(|| format!("cannot read {}", security.display()))?;
    wrong.extend(
        tests_in(&security)
            .filter(|name| !functions.contains(*name))
            .map(|name| format!("SECURITY.md names the test `{name}`, which there is none of")),
    );
    wrong.extend(check_listener_tree()?);
    wrong.extend(check_features()?);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("the tree is not tidy:\n  {}", wrong.join("\n  "))))
}

/// What is or will be committed.
fn tracked_files() -> Result<Vec<String>> {
    let mut command = bound("git", Orphan::Kill);
    command
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root());
    let text = quiet("list the files that git knows", command)
        .context(|| "this check needs git and its checkout".to_owned())?;
    Ok(text
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect())
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if Path::new(path).extension().is_some_and(|extension| extension == "rs") && !begins_with_docs(text) {
        wrong.push(format!(
            "{path} does not begin with `//!`: say in a sentence what it is for"
        ));
    }
    // Cargo writes its own file.
    if path != "Cargo.lock" {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = forbidden_words().into_iter().find(|word| line.contains(word.as_str())) {
                wrong.push(format!(
                    "{path}:{} holds `{word}`: name neither hosts of registries nor paths of one machine",
                    number + 1
                ));
            }
        }
    }
    wrong
}

/// The names of the functions that a source declares.
fn functions_in(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let (_, rest) = line.split_once("fn ")?;
        rest.split_once('(').map(|(name, _)| name)
    })
}

/// The tests that the last column of a table names.
fn tests_in(document: &str) -> impl Iterator<Item = &str> {
    let rows = document.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2))
}

/// The first thing in the file but attributes and blank lines is a comment on the module.
fn begins_with_docs(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .is_some_and(|line| line.starts_with("//!"))
}

/// Put together here, so that this file does not hold them.
fn forbidden_words() -> Vec<String> {
    [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["crates", ".io/"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["deb.debian", ".org"],
        ["registry.npmjs", ".org"],
        ["proxy.golang", ".org"],
    ]
    .iter()
    .map(|parts| parts.concat())
    .collect()
}

/// curator-listener knows nothing of etcd, and nothing of the election.
fn check_listener_tree() -> Result<Vec<String>> {
    let tree = quiet(
        "list the dependencies of curator-listener",
        cargo(&[
            "tree",
            "--package",
            "curator-listener",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ]),
    )?;
    Ok(intruders(&tree)
        .into_iter()
        .map(|name| format!("curator-listener depends on {name}, which it must not know"))
        .collect())
}

fn intruders(tree: &str) -> Vec<&'static str> {
    let names: Vec<_> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    ["etcd-client", "curator-election"]
        .into_iter()
        .filter(|name| names.contains(name))
        .collect()
}

/// No program that is built for use has deliberate bugs in it, or anything else that is for tests alone.
fn check_features() -> Result<Vec<String>> {
    let tree = quiet(
        "list the features of curator-service",
        cargo(&[
            "tree",
            "--package",
            "curator-service",
            "--edges",
            "normal,features",
            "--prefix",
            "none",
        ]),
    )?;
    Ok(test_features(&tree)
        .into_iter()
        .map(|feature| format!("curator is built with {feature}, which is for tests alone"))
        .collect())
}

fn test_features(tree: &str) -> Vec<&str> {
    let of_ours = tree.lines().filter(|line| line.starts_with("curator-"));
    of_ours
        .filter(|line| {
            ["sabotage", "simulation", "testing", "mock", "test-identity", "measure"]
                .iter()
                .any(|feature| line.contains(&format!("feature \"{feature}\"")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_a_table_names_are_found() {
        let table = "| who | can | shown by |\n|---|---|---|\n| a | `b` | `first`, `second` |\n| c | | |\nand `none`\n";
        assert_eq!(tests_in(table).collect::<Vec<_>>(), ["first", "second"]);
        let source = "    async fn first() {\npub(crate) fn second<T>(\n";
        assert_eq!(functions_in(source).collect::<Vec<_>>(), ["first", "second<T>"]);
    }

    #[test]
    fn modules_begin_with_a_comment_on_themselves() {
        assert!(begins_with_docs("\n//! What it is for.\n"));
        assert!(!begins_with_docs("use std::fs;\n//! Too late.\n"));
        assert!(!begins_with_docs(""));
        assert_eq!(check_file("a/b.rs", "fn main() {}").len(), 1);
        assert_eq!(check_file("a/b.md", "text"), Vec::<String>::new());
    }

    #[test]
    fn forbidden_words_are_found_with_their_line() {
        for word in forbidden_words() {
            let wrong = check_file("README.md", &format!("one\nsee https://{word} there\n"));
            assert!(wrong[0].starts_with("README.md:2 "), "{wrong:?}");
            assert_eq!(check_file("Cargo.lock", &word), Vec::<String>::new());
        }
    }

    #[test]
    fn features_for_tests_are_told_from_the_others() {
        let good = "curator-service v0.1.0\ncurator-election feature \"etcd\"\ntokio feature \"testing\"\n";
        assert_eq!(test_features(good), Vec::<&str>::new());
        let bad = "curator-election feature \"sabotage\"\n";
        assert_eq!(test_features(bad), ["curator-election feature \"sabotage\""]);
    }

    #[test]
    fn the_listener_depends_on_no_intruder() {
        assert_eq!(
            intruders("curator-listener v0.1.0\ntonic v0.14.9\netcd-client-like v1\n"),
            Vec::<&str>::new()
        );
        assert_eq!(
            intruders("curator-listener v0.1.0\ncurator-election v0.1.0 (x)\netcd-client v0.21.1\n"),
            ["etcd-client", "curator-election"]
        );
    }
}
