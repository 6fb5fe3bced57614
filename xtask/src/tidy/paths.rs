//! The sources that documents name, which move more often than the documents are read.

/// Each source that a document names and that does not exist. `files` are all files of the checkout.
pub(super) fn check(path: &str, text: &str, files: &[String]) -> Vec<String> {
    // History names what there was.
    if !path.ends_with(".md") || path == "CHANGELOG.md" {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let sources = line.split('`').skip(1).step_by(2).filter(|code| is_source(code));
        let missing = sources.filter(|source| !files.iter().any(|file| is_at_the_end_of(source, file)));
        wrong.extend(missing.map(|source| format!("{path}:{} names `{source}`, which does not exist", number + 1)));
    }
    wrong
}

/// The path of a Rust source. `foo` stands for any name.
fn is_source(code: &str) -> bool {
    let of_a_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    code.ends_with(".rs") && code != "foo.rs" && code.chars().all(of_a_path)
}

fn is_at_the_end_of(source: &str, file: &str) -> bool {
    file.strip_suffix(source)
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_has_moved_is_found_and_a_part_of_a_name_is_not_enough() {
        let files = ["crate/src/a/new.rs".to_owned(), "top.rs".to_owned()];
        let good = "See `a/new.rs`, `new.rs`, `top.rs`, `foo.rs`, `cargo run x.rs` and ew.rs.\n";
        assert_eq!(check("docs/a.md", good, &files), Vec::<String>::new());
        let wrong = check("docs/a.md", "one\n`old.rs` and `ew.rs`\n", &files);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("docs/a.md:2 names `old.rs`"), "{wrong:?}");
        assert_eq!(check("CHANGELOG.md", "`old.rs`", &files), Vec::<String>::new());
    }
}
