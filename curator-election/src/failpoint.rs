//! Failpoints of the election: the names of deliberate bugs that the simulation must find.
//!
//! See [`curator_failpoint`]: none of them can be enabled in a build for use.

pub(crate) use curator_failpoint::on;

/// A lease counts from the receipt of a renewal's reply, not from the sending of its request.
pub const DEADLINE_FROM_RECEIPT: &str = "DeadlineFromReceipt";
/// A term lasts until the very end of its lease, without the margin.
pub const NO_MARGIN: &str = "NoMargin";
/// A late renewal makes an ended term valid again.
pub const REVIVES_ENDED_TERM: &str = "RevivesEndedTerm";
/// The lease is not revoked at the end of a round.
pub const KEEPS_LEASE: &str = "KeepsLease";
/// An observation of a leader never becomes stale.
pub const NEWS_NEVER_TOO_OLD: &str = "NewsNeverTooOld";
/// A candidate with no older key before it wins without checking that its own key still exists.
pub const NO_RECHECK_OF_OWN_KEY: &str = "NoRecheckOfOwnKey";
/// The guard compares the value of the lock key, not its create revision.
pub const GUARD_BY_VALUE: &str = "GuardByValue";

/// A read confirms a term without looking at its challenge key.
pub const CONFIRMS_WITHOUT_RECORD: &str = "ConfirmsWithoutRecord";
/// A confirmation counts from the receipt of the answer.
pub const CONFIRMED_FROM_RECEIPT: &str = "ConfirmedFromReceipt";
/// A challenger's wait counts from the sending of its challenge.
pub const WAITS_FROM_SENDING: &str = "WaitsFromSending";
/// The wait for an adopted challenge counts from the suspicion, before the read that found it was answered.
pub const WAITS_FROM_ASKING: &str = "WaitsFromAsking";
/// A challenger waits for its own limit, not for that of the accused.
pub const OWN_LIMIT: &str = "OwnLimit";
/// A candidate without a challenge key is challenged at mod revision 0.
pub const ABSENT_IS_ZERO: &str = "AbsentIsZero";
/// A challenger deposes without comparing the mod revision of the challenge key.
pub const DEPOSES_WITHOUT_COMPARE: &str = "DeposesWithoutCompare";
/// A challenger deposes although its own key is gone.
pub const DEPOSES_UNQUEUED: &str = "DeposesUnqueued";
/// A refutation does not check that the lock key exists.
pub const REFUTES_WITHOUT_GUARD: &str = "RefutesWithoutGuard";
/// A term is valid until the later of its two deadlines.
pub const LATER_DEADLINE: &str = "LaterDeadline";
/// The term's limit is larger than the one in its challenge key.
pub const CHANGES_LIMIT: &str = "ChangesLimit";
/// Neither confirmation nor wait has a margin for different clock rates.
pub const NO_CHALLENGE_MARGIN: &str = "NoChallengeMargin";
/// A challenger counts the time in which the store did not answer.
pub const COUNTS_OUTAGES: &str = "CountsOutages";

/// The names of all failpoints of this crate.
pub const ALL: &[&str] = &[
    DEADLINE_FROM_RECEIPT,
    NO_MARGIN,
    REVIVES_ENDED_TERM,
    KEEPS_LEASE,
    NEWS_NEVER_TOO_OLD,
    NO_RECHECK_OF_OWN_KEY,
    GUARD_BY_VALUE,
    CONFIRMS_WITHOUT_RECORD,
    CONFIRMED_FROM_RECEIPT,
    WAITS_FROM_SENDING,
    WAITS_FROM_ASKING,
    OWN_LIMIT,
    ABSENT_IS_ZERO,
    DEPOSES_WITHOUT_COMPARE,
    DEPOSES_UNQUEUED,
    REFUTES_WITHOUT_GUARD,
    LATER_DEADLINE,
    CHANGES_LIMIT,
    NO_CHALLENGE_MARGIN,
    COUNTS_OUTAGES,
];
