//! The regular expressions of a filter: limited in number and size, and compiled once.

use std::collections::HashMap;

use cel::ExecutionError;
use regex::{Regex, RegexBuilder};

use crate::leader::nodes::filter::budget::Budget;
use crate::leader::nodes::filter::evaluate::Stop;

/// Maximum length of a regular expression, in bytes.
const MAX_PATTERN_BYTES: usize = 512;
/// Maximum size of a compiled expression, in bytes. `\w{1,63}` takes a few hundred KB because of Unicode.
const LARGEST: usize = 1 << 20;
/// Maximum size of the matching cache, in bytes.
const MEMORY: usize = 256 << 10;
/// Maximum length of a searched text, in bytes.
const MAX_TEXT_BYTES: usize = 4_096;
/// Maximum number of compiled expressions kept.
const KEPT: usize = 4;
/// The steps charged for a compilation: a filter with a new expression for each label soon exceeds its limit.
const STEPS: u64 = 20_000;

/// The compiled expressions.
#[derive(Default)]
pub(super) struct Patterns(HashMap<String, Regex>);

impl Patterns {
    /// Whether a part of the text matches.
    pub(super) fn matches(&mut self, text: &str, pattern: &str, budget: &mut Budget) -> Result<bool, Stop> {
        budget.check()?;
        budget.steps(1 + text.len() as u64)?;
        if text.len() > MAX_TEXT_BYTES {
            return Err(no_match(format!("text exceeds {MAX_TEXT_BYTES} bytes")));
        }
        if let Some(known) = self.0.get(pattern) {
            return Ok(known.is_match(text));
        }
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(no_match(format!(
                "regular expression exceeds {MAX_PATTERN_BYTES} bytes"
            )));
        }
        budget.steps(STEPS)?;
        let compiled = RegexBuilder::new(pattern)
            .size_limit(LARGEST)
            .dfa_size_limit(MEMORY)
            .nest_limit(32)
            .build();
        let compiled = compiled.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => no_match("compiled regular expression is too large".into()),
            _ => no_match("invalid regular expression".into()),
        })?;
        let matches = compiled.is_match(text);
        if self.0.len() == KEPT {
            self.0.clear();
        }
        self.0.insert(pattern.into(), compiled);
        Ok(matches)
    }
}

fn no_match(message: String) -> Stop {
    Stop::Error(ExecutionError::FunctionError {
        function: "matches".into(),
        message,
    })
}
