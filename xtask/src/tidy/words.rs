//! A short list of habits that make texts hard to read at night, and the greatest width of a line of prose.
//!
//! The list has paraphrases for which there is a term, and sentences whose subject is a pronoun without a noun. See
//! `docs/contributing/style.md`.

/// What is not written, and what is written in its place.
const HABITS: &[(&str, &str)] = &[
    ("hands are shaken", "TLS handshake"),
    ("as many as may", "the limit and its name"),
    ("which there is none", "does not exist"),
    ("says of itself", "reports"),
    ("is none of", "is not one of"),
    ("what is wider", "the mode that is required"),
    ("by now", "the time, or nothing"),
];

/// The greatest width of a comment or a line of prose, in characters.
const MAX_WIDTH: usize = 120;

/// The habits and the long lines in a file.
pub(super) fn check(path: &str, text: &str) -> Vec<String> {
    // History keeps its words, and this file has the list.
    if path == "CHANGELOG.md" || path.ends_with("tidy/words.rs") {
        return Vec::new();
    }
    let (source, prose) = (path.ends_with(".rs"), path.ends_with(".md"));
    if !source && !prose {
        return Vec::new();
    }
    let (mut wrong, mut block) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", number + 1);
        let lower = line.to_lowercase();
        for (habit, instead) in HABITS {
            if has_words(&lower, habit) {
                wrong.push(format!("{at} says `{habit}`: write `{instead}`"));
            }
        }
        let trimmed = line.trim_start();
        block ^= prose && trimmed.starts_with("```");
        let measured = if source {
            trimmed.starts_with("//")
        } else {
            !block && !is_unbreakable(trimmed)
        };
        if measured && line.chars().count() > MAX_WIDTH {
            wrong.push(format!("{at} is wider than {MAX_WIDTH} columns"));
        }
    }
    wrong
}

/// A row of a table, and a line without a place to break it.
fn is_unbreakable(line: &str) -> bool {
    line.starts_with('|') || line.starts_with('[') || !line.contains(' ')
}

fn has_words(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !is_letter(text[..at].chars().next_back()) && !is_letter(text[at + words.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_habit_is_found_as_whole_words() {
        let wrong = check("a.md", "It is there By now.\nStandby nowhere.\n");
        assert!(
            wrong.len() == 1 && wrong[0].starts_with("a.md:1 says `by now`"),
            "{wrong:?}"
        );
        assert_eq!(check("CHANGELOG.md", "by now"), Vec::<String>::new());
    }

    #[test]
    fn wide_prose_and_comments_are_found_and_tables_and_code_are_not() {
        let wide = "word ".repeat(30);
        assert_eq!(check("a.md", &wide).len(), 1);
        assert_eq!(
            check("a.md", &format!("| {wide}|\n```sh\n{wide}\n```\n")),
            Vec::<String>::new()
        );
        assert_eq!(check("a.rs", &format!("// {wide}\nlet text = \"{wide}\";\n")).len(), 1);
    }
}
