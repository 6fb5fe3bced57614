//! Failpoints of the listener: the names of deliberate bugs that the simulation must find.
//!
//! See [`curator_failpoint`]: none of them can be enabled in a build for use.

pub(crate) use curator_failpoint::on;

/// A forwarded call whose response was lost is sent again.
pub const SENDS_LOST_CALL_AGAIN: &str = "SendsLostCallAgain";
/// Calls are answered after the end of the term in which they began.
pub const ANSWERS_FOR_ENDED_TERM: &str = "AnswersForEndedTerm";
/// A call waits for a leader beyond its deadline.
pub const HOLDS_FOREVER: &str = "HoldsForever";
/// A call that is being served or forwarded outlasts its deadline.
pub const NO_DEADLINE: &str = "NoDeadline";

/// The names of all failpoints of this crate.
pub const ALL: &[&str] = &[
    SENDS_LOST_CALL_AGAIN,
    ANSWERS_FOR_ENDED_TERM,
    HOLDS_FOREVER,
    NO_DEADLINE,
];
