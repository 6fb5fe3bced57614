//! What callers saw, and whether one honest service can have answered so.
//!
//! [`check`] looks for an order of the calls of one register in which each takes effect at one moment between its
//! beginning and its end. A call whose end nobody knows may take effect at any moment after its beginning, or never.
//! [`shorten`] keeps of a history that has no such order only what shows it. [`rules`] holds what needs no search.

mod linear;
pub mod rules;
mod shorten;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use linear::{Verdict, check};
pub use shorten::shorten;

/// What a register holds. Writers that each write a value of their own make the search short and the findings plain.
pub type Value = u64;

/// One call of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number among all calls of the run.
    pub id: u64,
    /// When the caller sent it, since the run began.
    pub began: Duration,
    /// When the caller had its answer; `None` when it had none that says whether the call took effect: it timed out, or
    /// was told `UNAVAILABLE`. Such a call counts as one that may still take effect, for ever.
    pub ended: Option<Duration>,
    /// What it did.
    pub step: Step,
}

/// What a call does to a register, or has seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Has seen this value.
    Read(Value),
    /// Writes this value.
    Write(Value),
    /// Writes `new` where `expected` was.
    Swap {
        /// What must be there before.
        expected: Value,
        /// What is there afterwards.
        new: Value,
    },
    /// Wanted to replace this value, and was told that another one is there.
    Differs(Value),
}

impl Step {
    /// What is there after this step if `value` is there before. `None` when the step cannot be then.
    fn apply(self, value: Value) -> Option<Value> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(new) => Some(new),
            Self::Swap { expected, new } => (expected == value).then_some(new),
            Self::Differs(expected) => (expected != value).then_some(value),
        }
    }

    /// What it writes, if it writes.
    fn writes(self) -> Option<Value> {
        match self {
            Self::Write(new) | Self::Swap { new, .. } => Some(new),
            Self::Read(_) | Self::Differs(_) => None,
        }
    }

    /// Which value must have been there for it, if it is one of them.
    fn needs(self) -> Option<Value> {
        match self {
            Self::Read(value) | Self::Swap { expected: value, .. } => Some(value),
            Self::Write(_) | Self::Differs(_) => None,
        }
    }

    /// Which value it speaks of without writing it.
    fn mentions(self) -> Option<Value> {
        match self {
            Self::Differs(value) => Some(value),
            other => other.needs(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(value) => write!(f, "reads {value}"),
            Self::Write(value) => write!(f, "writes {value}"),
            Self::Swap { expected, new } => write!(f, "replaces {expected} by {new}"),
            Self::Differs(expected) => write!(f, "finds something else than {expected}"),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.4} s to ", self.began.as_secs_f64())?;
        match self.ended {
            Some(ended) => write!(f, "{:>10.4} s", ended.as_secs_f64())?,
            None => write!(f, "{:>12}", "(unknown)")?,
        }
        write!(f, "  call {:>6} {}", self.id, self.step)
    }
}
