//! The one error type of xtask: a sentence that says what failed and what to do, and the cause beneath it.

use std::error::Error as StdError;
use std::fmt;

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, what to do about it, and what lies beneath.
pub struct Error {
    message: String,
    usage: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure. The message says what failed and, where it can, what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            usage: false,
            source: None,
        }
    }

    /// A mistake on the command line: the program answers with exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            usage: true,
            ..Self::new(message)
        }
    }

    /// Puts a cause beneath the message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the command line was wrong, rather than what it asked for.
    pub fn is_usage(&self) -> bool {
        self.usage
    }

    /// The message and each cause beneath it, one a line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str("\n  because: ");
            text.push_str(&cause.to_string().trim_end().replace('\n', "\n    "));
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The whole chain, so that an `unwrap` in a test shows it readably.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Adds to a failure what was being done.
pub trait Context<T> {
    /// Wraps the error as the cause of `message`.
    ///
    /// # Errors
    /// The wrapped one, if there was one.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(message()).because(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_every_cause_in_order() {
        let inner = Error::new("no such file");
        let outer: Result<()> = Err(inner).context(|| "cannot read the settings".to_owned());
        assert_eq!(
            outer.unwrap_err().chain(),
            "cannot read the settings\n  because: no such file"
        );
    }
}
