//! The commands that the documents show, to be tried.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::checkout::root;

/// The documents for users: those at the top and in `docs/`.
///
/// # Panics
/// There is no such directory.
#[must_use]
pub fn documents() -> Vec<PathBuf> {
    let root = root();
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
#[must_use]
pub fn commands(text: &str) -> Vec<String> {
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
#[must_use]
pub fn words(line: &str) -> Vec<String> {
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

/// The arguments of a call of this program; variables may stand before it.
#[must_use]
pub fn call_of(program: &str, line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let is_variable = |word: &String| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let mut rest = words.into_iter().skip_while(is_variable);
    (rest.next()?.rsplit('/').next()? == program).then(|| rest.collect())
}

/// Tries each call of a program that the documents show, with `--help` behind it so that nothing is done; how many
/// there were.
///
/// # Errors
/// With each that the program refuses.
///
/// # Panics
/// A document or the program is not there.
pub fn try_commands(name: &str, program: &str, passed_over: &[&str]) -> std::result::Result<usize, String> {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        let text = fs::read_to_string(&document).expect("the document was found");
        for line in commands(&text) {
            let Some(arguments) = call_of(name, &line) else {
                continue;
            };
            if passed_over.iter().any(|flag| line.contains(flag)) {
                continue;
            }
            checked += 1;
            let output = Command::new(program).args(&arguments).arg("--help").output();
            let output = output.expect("the program starts");
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                wrong.push(format!("{}: {line}\n{said}", document.display()));
            }
        }
    }
    if wrong.is_empty() {
        Ok(checked)
    } else {
        Err(wrong.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_a_shell_would_read_them() {
        let arguments = call_of("curator", "A=b curator serve --no-such-flag 1 --help &").unwrap();
        assert_eq!(arguments, ["serve", "--no-such-flag", "1", "--help"]);
        assert_eq!(call_of("curatorctl", "curator serve"), None);
        assert_eq!(words("a 'b c'  \"d\"e # f"), ["a", "b c", "de"]);
        assert_eq!(
            commands("```sh\n$ a \\\n  b\n```\nc `d e` f\n```json\nd\n```"),
            ["a b", "d e"]
        );
    }
}
