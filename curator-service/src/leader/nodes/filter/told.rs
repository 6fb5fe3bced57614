//! What is said of a filter: little, however much there is to say. An error may quote all of a filter or a value that is a tree
//! without end, and what it says goes into a header.

use std::fmt::{self, Display, Write as _};

/// The longest text, in bytes.
pub(super) const MAX_ERROR_BYTES: usize = 500;

/// The beginning of what something says of itself. No more than that is written at all.
pub(super) fn told(what: &(impl Display + ?Sized)) -> String {
    let mut text = Short(String::new());
    match write!(text, "{what}") {
        Ok(()) => text.0,
        Err(fmt::Error) => text.0 + " ...",
    }
}

/// A text that takes no more than fits.
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

/// How deep the brackets of a filter are nested, those within texts left out.
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

    /// Says the same for ever.
    struct Endless;

    impl Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // A test that fails must not go on for ever.
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
