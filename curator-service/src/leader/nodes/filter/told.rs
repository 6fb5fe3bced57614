//! Truncates error messages of filters: an error may quote a whole filter or a huge value, and is sent in a header.

use std::fmt::{self, Display, Write as _};

/// Maximum length of a message, in bytes.
pub(super) const MAX_ERROR_BYTES: usize = 500;

/// The start of the displayed text. Nothing beyond the limit is formatted.
pub(super) fn told(what: &(impl Display + ?Sized)) -> String {
    let mut text = Short(String::new());
    match write!(text, "{what}") {
        Ok(()) => text.0,
        Err(fmt::Error) => text.0 + " ...",
    }
}

/// A buffer that accepts only what fits.
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let mut room = more.len().min(MAX_ERROR_BYTES - self.0.len());
        while !more.is_char_boundary(room) {
            room -= 1;
        }
        self.0.push_str(&more[..room]);
        if room == more.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The nesting depth of brackets in a filter, ignoring string literals.
pub(super) fn depth(filter: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut quote = None;
    let mut bytes = filter.bytes();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                let _escaped = bytes.next();
            }
            (Some(end), byte) if byte == end => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Displays the same text forever.
    struct Endless;

    impl Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // Stop eventually, so that a failing test ends.
            for _ in 0..1_000_000 {
                f.write_str("ä and so on, ")?;
            }
            Ok(())
        }
    }

    #[test]
    fn what_has_no_end_is_cut_off() {
        assert_eq!(told(&"short"), "short");
        let told = told(&Endless);
        assert!(told.len() <= MAX_ERROR_BYTES + 4 && told.ends_with(" ..."), "{told}");
    }

    #[test]
    fn brackets_in_texts_do_not_count() {
        assert_eq!(depth("a == '(((' && f([1, {2: \"\\\"[[\"}])"), 3);
        assert_eq!(depth(")))((("), 3);
    }
}
