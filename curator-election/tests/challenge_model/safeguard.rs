//! The safeguards of the algorithm, each of which can be taken out.

/// A safeguard that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    Nothing,
    /// A read of the leader counts although the challenge key says that it is challenged.
    ReadChecksChallenge,
    /// A candidate becomes the leader although it is challenged.
    VictoryChecksChallenge,
    /// A new term is bound by its lease alone until its first read.
    BoundFromTheStart,
    /// A read extends the deadline from the receipt of its answer.
    DeadlineFromSending,
    /// A term is valid until the later of its two deadlines.
    EarlierDeadline,
    /// The wait of a challenger begins as it sends the challenge.
    WaitFromAnswer,
    /// The wait of a challenger whose answer was lost begins as it asks what became of the challenge.
    WaitFromAnswerOfPoll,
    /// The challenger waits for its own limit, not for that of the accused.
    LimitOfAccused,
    /// Neither side has a margin for clocks of different rates.
    MarginForRates,
    /// A lock key without a challenge key is challenged: etcd compares the revision of an absent key as zero.
    RevisionAboveZero,
    /// The accused is deposed without comparing the revision of the challenge.
    CompareOfRevision,
    /// There is one challenge key for all terms, which outlives them.
    ChallengeKeyPerTerm,
    /// The leader raises its limit within the term.
    LimitNotRaised,
    /// The leader lowers its limit within the term.
    LimitNotLowered,
    /// The leader switches the limit off within the term.
    LimitNotSwitchedOff,
    /// A late answer makes an ended term valid again.
    EndedIsFinal,
    /// A refutation is written without a condition.
    GuardOfRefutation,
    /// Whoever has lost its own lock key challenges and deposes.
    DeposerIsQueued,
    /// Time counts while etcd does not answer.
    CountedTime,
    /// A challenge is written over that of another candidate.
    ChallengeOfOtherStands,
}
