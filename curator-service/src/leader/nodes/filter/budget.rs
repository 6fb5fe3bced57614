//! The limits of a filter: steps, memory and time.
//!
//! Steps and memory are counted deterministically; the time limit is the last resort for steps that take unusually
//! long. The memory count is the sum of all allocations for one node and is not reduced when values are freed, so it
//! bounds the peak.

use std::fmt;

use curator_election::clock::{Instant, SharedClock};
use tonic::Status;

use crate::telemetry;

/// Maximum steps for one node: one per evaluated subexpression, per element and per 64 bytes processed.
pub(super) const STEPS_OF_NODE: u64 = 500_000;
/// Maximum steps for all nodes: about one second.
pub(super) const STEPS: u64 = 20_000_000;
/// Maximum allocations for one node, in bytes.
pub(super) const BYTES_OF_NODE: usize = 1 << 20;
/// Maximum time for a filter.
pub(super) const TIME: std::time::Duration = std::time::Duration::from_secs(2);
/// Number of steps between two checks of the clock and of cancellation.
const STEPS_PER_CLOCK_CHECK: u64 = 1_024;

/// The limit that a filter exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// The steps for one node.
    StepsOfNode,
    /// The steps for all nodes.
    Steps,
    /// The memory.
    Bytes,
    /// The time.
    Time,
    /// The call was cancelled.
    Gone,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StepsOfNode => write!(f, "exceeds {STEPS_OF_NODE} steps for one node"),
            Self::Steps => write!(f, "exceeds {STEPS} steps for all nodes"),
            Self::Bytes => write!(f, "exceeds {} KiB of values for one node", BYTES_OF_NODE >> 10),
            Self::Time => write!(f, "exceeds the time limit of {} s", TIME.as_secs()),
            Self::Gone => f.write_str("cancelled by the caller"),
        }
    }
}

impl Spent {
    /// The label in the metric.
    const fn word(self) -> &'static str {
        match self {
            Self::StepsOfNode | Self::Steps => "steps",
            Self::Bytes => "memory",
            Self::Time => "time",
            Self::Gone => "gone",
        }
    }
}

impl From<Spent> for Status {
    fn from(spent: Spent) -> Self {
        metrics::counter!(telemetry::FILTERS_REFUSED, "why" => spent.word()).increment(1);
        match spent {
            // The same filter would exceed the limit again.
            Spent::StepsOfNode | Spent::Steps | Spent::Bytes => Self::invalid_argument(format!("filter: {spent}")),
            Spent::Time => Self::resource_exhausted(format!("filter: {spent}")),
            Spent::Gone => Self::cancelled(format!("filter: {spent}")),
        }
    }
}

/// The remaining budget of a filter.
pub(super) struct Budget {
    steps: u64,
    steps_of_node: u64,
    bytes_of_node: usize,
    until_look: u64,
    clock: SharedClock,
    deadline: Instant,
    gone: Box<dyn Fn() -> bool + Send>,
}

impl Budget {
    /// A full budget. `gone` tells whether the call was cancelled.
    pub(super) fn new(clock: SharedClock, gone: impl Fn() -> bool + Send + 'static) -> Self {
        let deadline = clock.now() + TIME;
        Self {
            steps: STEPS,
            steps_of_node: STEPS_OF_NODE,
            bytes_of_node: BYTES_OF_NODE,
            until_look: STEPS_PER_CLOCK_CHECK,
            clock,
            deadline,
            gone: Box::new(gone),
        }
    }

    /// Resets the limits per node.
    pub(super) fn next_node(&mut self) -> Result<(), Spent> {
        self.steps_of_node = STEPS_OF_NODE;
        self.bytes_of_node = BYTES_OF_NODE;
        self.check()
    }

    /// Consumes steps.
    pub(super) fn steps(&mut self, steps: u64) -> Result<(), Spent> {
        self.steps_of_node = self.steps_of_node.checked_sub(steps).ok_or(Spent::StepsOfNode)?;
        self.steps = self.steps.checked_sub(steps).ok_or(Spent::Steps)?;
        match self.until_look.checked_sub(steps) {
            Some(left) => self.until_look = left,
            None => self.check()?,
        }
        Ok(())
    }

    /// Consumes memory.
    pub(super) fn bytes(&mut self, bytes: usize) -> Result<(), Spent> {
        self.bytes_of_node = self.bytes_of_node.checked_sub(bytes).ok_or(Spent::Bytes)?;
        Ok(())
    }

    /// Fails if this much memory is not left.
    pub(super) const fn has(&self, bytes: usize) -> Result<(), Spent> {
        if bytes <= self.bytes_of_node {
            Ok(())
        } else {
            Err(Spent::Bytes)
        }
    }

    /// Checks the clock and cancellation.
    pub(super) fn check(&mut self) -> Result<(), Spent> {
        self.until_look = STEPS_PER_CLOCK_CHECK;
        match () {
            () if (self.gone)() => Err(Spent::Gone),
            () if self.clock.now() > self.deadline => Err(Spent::Time),
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status_page::counted::Counted;

    #[test]
    fn whatever_a_filter_has_used_up_is_counted() {
        let counted = Counted::new();
        let _counting = counted.begin();
        for (spent, why) in [
            (Spent::StepsOfNode, "steps"),
            (Spent::Bytes, "memory"),
            (Spent::Time, "time"),
            (Spent::Gone, "gone"),
        ] {
            let metric = format!("{}{{why=\"{why}\"}}", telemetry::FILTERS_REFUSED);
            assert_eq!(counted.of(&metric), 0);
            let told = Status::from(spent);
            assert!(told.message().starts_with("filter: "), "{told}");
            assert_eq!(counted.of(&metric), 1, "{metric}");
        }
    }
}
