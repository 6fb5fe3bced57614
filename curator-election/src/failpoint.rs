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
/// Transactions of a term are sent without its guard.
pub const NO_GUARD: &str = "NoGuard";
/// A transaction whose reply was lost is sent a second time.
pub const SENDS_LOST_WRITE_AGAIN: &str = "SendsLostWriteAgain";
/// A fence accepts a revision older than one that the term has already seen.
pub const IGNORES_STORE_GONE_BACK: &str = "IgnoresStoreGoneBack";

/// The names of all failpoints of this crate.
pub const ALL: &[&str] = &[
    DEADLINE_FROM_RECEIPT,
    NO_MARGIN,
    REVIVES_ENDED_TERM,
    KEEPS_LEASE,
    NEWS_NEVER_TOO_OLD,
    NO_RECHECK_OF_OWN_KEY,
    GUARD_BY_VALUE,
    NO_GUARD,
    SENDS_LOST_WRITE_AGAIN,
    IGNORES_STORE_GONE_BACK,
];
