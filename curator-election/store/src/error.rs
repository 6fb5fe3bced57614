//! Why a call to a store failed, by what the caller can do about it.

use crate::{LeaseId, Revision};

/// Why a call to the store failed, by what the caller may do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The call was never carried out: it may be made again.
    #[error("the store could not be reached, nothing was done: {reason}")]
    Unreachable {
        /// What went wrong.
        reason: String,
    },
    /// No answer: the call may or may not have been carried out.
    #[error("no answer from the store, the call may have been carried out: {reason}")]
    Unknown {
        /// What went wrong.
        reason: String,
    },
    /// Members of the store answer, but not enough of them to agree on anything: the call was never carried out, and will not be
    /// before more of them are back.
    #[error("the store has no quorum, nothing was done: {reason}")]
    NoQuorum {
        /// How many answer, and what to do.
        reason: String,
    },
    /// The revision asked for is no longer kept. Read afresh and go on from there.
    #[error("the store has compacted its history up to revision {revision}: read afresh")]
    Compacted {
        /// The oldest revision that is kept, 0 if the store did not say.
        revision: Revision,
    },
    /// The lease does not exist (any more): the keys attached to it are gone.
    #[error("lease {id} does not exist any more, grant a new one")]
    LeaseNotFound {
        /// The lease.
        id: LeaseId,
    },
    /// The store refuses the call as such; making it again will not help until something is changed.
    #[error("the store refuses the call: {reason}")]
    Refused {
        /// What has to change before the call is made again.
        kind: RefusalKind,
        /// What the store says.
        reason: String,
    },
}

/// Why a store refuses a call, by what has to change before it is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The store has no space left for writes (etcd's NOSPACE alarm): free space, then disarm the alarm.
    NoSpace,
    /// The request or its answer is larger than a limit of the store or of its client: ask for less at once.
    TooLarge,
    /// The store has too much to do, and did not begin: call again later, and less often.
    Overloaded,
    /// The store knows who calls, and does not allow this: grant the permission.
    Permission,
    /// The store does not accept who calls: user, password, token or client certificate.
    Authentication,
    /// The revision is newer than the store's own. It was read from another store, or from this one before it was restored.
    FutureRevision,
    /// The members that answer are of different clusters, or of another one than before.
    WrongCluster,
    /// Anything else: the call itself is wrong, or the store cannot carry it out.
    Other,
}

impl RefusalKind {
    /// One word for it, as a metric's label.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoSpace => "no_space",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Permission => "permission",
            Self::Authentication => "authentication",
            Self::FutureRevision => "future_revision",
            Self::WrongCluster => "wrong_cluster",
            Self::Other => "refused",
        }
    }
}

impl StoreError {
    /// A refusal of no kind of its own.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused {
            kind: RefusalKind::Other,
            reason: reason.into(),
        }
    }

    /// One word for it, as a metric's label.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Unknown { .. } => "no_answer",
            Self::NoQuorum { .. } => "no_quorum",
            Self::Compacted { .. } => "compacted",
            Self::LeaseNotFound { .. } => "lease_not_found",
            Self::Refused { kind, .. } => kind.word(),
        }
    }

    /// Why the store refuses the call, if it does.
    #[must_use]
    pub const fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the call certainly had no effect.
    #[must_use]
    pub const fn never_ran(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}
