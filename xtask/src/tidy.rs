//! Checks of the sources that no compiler makes.
mod circles;
mod paths;
mod trees;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use curator_harness::checkout::root;
use curator_harness::error::{Context, Error, Result};
use curator_harness::guides;
use curator_harness::process::{Orphan, bound};
use curator_harness::step::quiet;

/// The documents that name tests.
const SECURITY: &str = "SECURITY.md";
const CLAIMS: &str = "docs/claims.md";

/// Runs all of them.
///
/// # Errors
/// With each thing that is not as it should be.
pub fn check() -> Result<()> {
    let mut wrong = Vec::new();
    let (mut tests, mut guides) = (BTreeSet::new(), Vec::new());
    let files = tracked_files()?;
    for path in &files {
        let Ok(text) = fs::read_to_string(root().join(path)) else {
            // Not text, or removed and not yet committed.
            continue;
        };
        wrong.extend(check_file(path, &text));
        wrong.extend(words::check(path, &text));
        wrong.extend(paths::check(path, &text, &files));
        if path.ends_with(".rs") {
            tests.extend(tests_declared(&text).map(str::to_owned));
        }
        if guides::is_guide(path) {
            guides.push((path.clone(), text));
        }
    }
    for (name, text) in &guides {
        wrong.extend(guides::check(name, text, &tests));
    }
    for document in [SECURITY, CLAIMS] {
        let text = read(document)?;
        let missing = tests_in(&text).filter(|name| !tests.contains(*name));
        wrong.extend(missing.map(|name| format!("{document} names the test `{name}`, which does not exist")));
    }
    wrong.extend(check_claims(&read(CLAIMS)?, read)?);
    wrong.extend(trees::check()?);
    wrong.extend(check_circles(&files));
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

/// The names of the tests that a source declares: of functions below an attribute that says so.
fn tests_declared(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    source.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with("#[") {
            is_test |= ["#[test]", "#[tokio::test"]
                .iter()
                .any(|attribute| line.starts_with(attribute));
        }
        let (_, rest) = line.split_once("fn ")?;
        let name = rest.split_once('(').map(|(name, _)| name);
        name.filter(|_| std::mem::take(&mut is_test))
    })
}

/// What the documents say of the listener must still be what they say, and no row of its sizes may be without a claim.
fn check_claims(claims: &str, read: impl Fn(&str) -> Result<String>) -> Result<Vec<String>> {
    let rows: Vec<_> = claims_in(claims).collect();
    let mut wrong = Vec::new();
    for (document, claim) in &rows {
        if !on_one_line(&read(document)?).contains(claim) {
            wrong.push(format!("{CLAIMS}: {document} does not say {claim:?} any more"));
        }
    }
    let architecture = read("ARCHITECTURE.md")?;
    let section = architecture.split("### Sizes").nth(1).unwrap_or_default();
    let section = section.split("\n#").next().unwrap_or_default();
    // Those of the state are not the listener's.
    let others = ["what", "record of the state", "state in all", "page of the state"];
    let sizes = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |").map(|(what, _)| what));
    for size in sizes.filter(|size| !others.contains(size)) {
        if !rows.iter().any(|(_, claim)| *claim == size) {
            wrong.push(format!("{CLAIMS} names no test of {size:?}, a size in ARCHITECTURE.md"));
        }
    }
    Ok(wrong)
}

/// The document and the words in it of each row that has such.
fn claims_in(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|line| {
        let (document, rest) = line.strip_prefix("| ")?.split_once(" | \"")?;
        rest.split_once("\" |").map(|(claim, _)| (document, claim))
    })
}

/// A text without its line breaks.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(document: &str) -> Result<String> {
    fs::read_to_string(root().join(document)).context(|| format!("cannot read {document}"))
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

/// Each circle of modules in the crates of the workspace.
fn check_circles(files: &[String]) -> Vec<String> {
    let mut crates = BTreeMap::<&str, circles::Imports>::new();
    for path in files {
        if let Some((directory, within)) = path.split_once("/src/")
            && let Ok(text) = fs::read_to_string(root().join(path))
        {
            crates.entry(directory).or_default().add(within, &text);
        }
    }
    let found = crates.iter().flat_map(|(directory, imports)| {
        let circles = imports.circles().into_iter();
        circles.map(move |circle| {
            let names = circle.into_iter().collect::<Vec<_>>().join(", ");
            format!("{directory}: the modules {names} import each other in a circle")
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_a_table_names_are_found() {
        let table = "| who | can | shown by |\n|---|---|---|\n| a | `b` | `first`, `second` |\n| c | | |\nand `none`\n";
        assert_eq!(tests_in(table).collect::<Vec<_>>(), ["first", "second"]);
        let source = "#[test]\n    fn first() {\nfn helper(\n#[tokio::test(start_paused = true)]\n#[x]\nasync fn second() {\n#[y]\nfn other()";
        assert_eq!(tests_declared(source).collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn what_the_documents_say_of_the_listener_is_shown_by_tests_that_there_are() {
        let mut tests = BTreeSet::new();
        for path in tracked_files().unwrap() {
            if path.ends_with(".rs") {
                let text = fs::read_to_string(root().join(&path)).unwrap_or_default();
                tests.extend(tests_declared(&text).map(str::to_owned));
            }
        }
        for document in [SECURITY, CLAIMS] {
            let text = read(document).unwrap();
            let missing: Vec<_> = tests_in(&text).filter(|name| !tests.contains(*name)).collect();
            assert_eq!(missing, Vec::<&str>::new(), "{document}");
        }
        for path in tracked_files().unwrap().iter().filter(|path| guides::is_guide(path)) {
            let text = read(path).unwrap();
            assert_eq!(guides::check(path, &text, &tests), Vec::<String>::new());
        }
        let claims = read(CLAIMS).unwrap();
        assert_eq!(check_claims(&claims, read).unwrap(), Vec::<String>::new());
        assert!(claims_in(&claims).count() > 40);
    }

    #[test]
    fn a_claim_that_is_not_made_any_more_is_found_and_so_is_a_size_without_one() {
        let architecture = "It holds\nalways.\n### Sizes\n| what | value |\n|---|---|\n| window | 1 |\n| state in all | 2 |\n## More\n| x | y |\n";
        let read = |_: &str| Ok(architecture.to_owned());
        let row = |claim: &str| format!("| ARCHITECTURE.md | \"{claim}\" | `first` |\n");
        let good = row("It holds always.") + &row("window");
        assert_eq!(check_claims(&good, read).unwrap(), Vec::<String>::new());
        let gone = check_claims(&(row("It holds never.") + &row("window")), read).unwrap();
        assert!(gone.len() == 1 && gone[0].contains("does not say"), "{gone:?}");
        let without = check_claims(&row("It holds always."), read).unwrap();
        assert!(without.len() == 1 && without[0].contains("\"window\""), "{without:?}");
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
}
