//! No two modules of a crate that stand at its top import each other, directly or around a corner: whoever reads one of
//! them need not have read all.
//!
//! Paths are read as text: `crate::a::...`, groups of them, and `super::` that leads to the top. Tests do not count.

use std::collections::{BTreeMap, BTreeSet};

/// The imports of a crate: each top module, and those that it names.
#[derive(Debug, Default)]
pub(super) struct Imports(BTreeMap<String, BTreeSet<String>>);

impl Imports {
    /// Adds a file by its path within the crate's sources, such as `state/view.rs`.
    pub(super) fn add(&mut self, path: &str, text: &str) {
        let Some(path) = path.strip_suffix(".rs") else { return };
        let parts: Vec<_> = path.split('/').collect();
        let (Some(top), Some(last)) = (parts.first(), parts.last()) else {
            return;
        };
        if matches!(*top, "lib" | "main" | "bin") || parts.contains(&"tests") || parts.contains(&"testing") {
            return;
        }
        // `a/mod.rs` is the module `a`.
        let depth = if *last == "mod" { parts.len() - 1 } else { parts.len() };
        let named = self.0.entry((*top).to_owned()).or_default();
        let text = without_tests(text);
        let to_top = "super::".repeat(depth);
        for prefix in ["crate::", to_top.as_str()] {
            for (at, _) in text.match_indices(prefix) {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                named.extend(first_names(&text[at + prefix.len()..]));
            }
        }
    }

    /// Each circle, as the modules in it.
    pub(super) fn circles(&self) -> Vec<BTreeSet<&str>> {
        let mut found: Vec<BTreeSet<&str>> = Vec::new();
        for module in self.0.keys() {
            let there = self.reached(module);
            let back = |other: &&&str| **other != module.as_str() && self.reached(other).contains(module.as_str());
            let mut circle: BTreeSet<_> = there.iter().filter(back).copied().collect();
            if !circle.is_empty() {
                circle.insert(module);
                if !found.contains(&circle) {
                    found.push(circle);
                }
            }
        }
        found
    }

    /// All modules that one imports, directly or not.
    fn reached(&self, from: &str) -> BTreeSet<&str> {
        let (mut found, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(module) = left.pop() {
            for next in self.0.get(module).into_iter().flatten() {
                if let Some((next, _)) = self.0.get_key_value(next)
                    && next != module
                    && found.insert(next.as_str())
                {
                    left.push(next);
                }
            }
        }
        found
    }
}

/// The text up to its tests, and without comments.
fn without_tests(text: &str) -> String {
    let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(all(test"];
    let end = tests.iter().filter_map(|start| text.find(start)).min();
    let lines = text[..end.unwrap_or(text.len())].lines();
    let code = lines.filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

/// The first names of a path, or of each path in a group.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let (mut names, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&group[begin..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&group[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let mut imports = Imports::default();
        for (path, text) in files {
            imports.add(path, text);
        }
        let found = imports.circles();
        found
            .into_iter()
            .map(|circle| circle.into_iter().map(str::to_owned).collect())
            .collect()
    }

    #[test]
    fn circles_are_found_directly_and_around_a_corner() {
        assert_eq!(
            circles(&[("a.rs", "use crate::b::X;"), ("b.rs", "fn f() { crate::a::g() }")]),
            [["a", "b"]]
        );
        let corner = [
            ("a.rs", "use crate::{c, b::X};"),
            ("b/d.rs", "use super::super::c::Y;"),
            ("c.rs", "use crate::{e::Z, a};"),
            ("e.rs", ""),
        ];
        assert_eq!(circles(&corner), [["a", "b", "c"]]);
    }

    #[test]
    fn tests_comments_and_the_own_module_make_no_circle() {
        let files = [
            (
                "a.rs",
                "// crate::b\nuse crate::a::X;\n#[cfg(test)]\nmod tests {\n    use crate::b::Y;\n}",
            ),
            ("b.rs", "use crate::a::X;"),
            ("b/tests.rs", "use crate::a;"),
            ("lib.rs", "use crate::b;"),
        ];
        assert_eq!(circles(&files), Vec::<Vec<String>>::new());
    }
}
