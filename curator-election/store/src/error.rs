//! Errors of a store, classified by what the caller can do.

use crate::{LeaseId, Revision};

/// An error of a call to the store, classified by what the caller can do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The call was not executed. It is safe to retry.
    #[error("store unreachable, the call was not executed: {reason}")]
    Unreachable {
        /// What went wrong.
        reason: String,
    },
    /// No reply. The call may or may not have been executed.
    #[error("no reply from the store, the call may have been executed: {reason}")]
    Unknown {
        /// What went wrong.
        reason: String,
    },
    /// Fewer members than a quorum respond. The call was not executed. Calls fail until a quorum is back.
    #[error("the store has no quorum, the call was not executed: {reason}")]
    NoQuorum {
        /// How many members respond, and what to do.
        reason: String,
    },
    /// The requested revision is compacted. Read again at the current revision and continue from there.
    #[error("the revision is compacted (oldest kept: {revision}): read again at the current revision")]
    Compacted {
        /// The oldest revision that is kept, 0 if the store did not say.
        revision: Revision,
    },
    /// The lease does not exist, or has expired. Its keys are deleted.
    #[error("lease {id} not found: grant a new lease")]
    LeaseNotFound {
        /// The lease.
        id: LeaseId,
    },
    /// The store rejected the call. A retry fails as well until the cause is removed.
    #[error("store rejected the call: {reason}")]
    Refused {
        /// The cause.
        kind: RefusalKind,
        /// The store's message.
        reason: String,
    },
}

/// Why the store rejected a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The store has no space left for writes (etcd's NOSPACE alarm): free space, then disarm the alarm.
    NoSpace,
    /// The request or response exceeds a size limit of the store or of its client: use smaller requests.
    TooLarge,
    /// The store is overloaded and did not execute the call: retry later, and less often.
    Overloaded,
    /// The user is authenticated and lacks the permission: grant it.
    Permission,
    /// Authentication failed: user, password, token or client certificate.
    Authentication,
    /// The revision is newer than the store's current one. It was read from another store, or before a restore of this
    /// one.
    FutureRevision,
    /// The responding members belong to different clusters, or to another cluster than before.
    WrongCluster,
    /// Any other cause: the call is invalid, or the store cannot execute it.
    Other,
}

impl RefusalKind {
    /// The value of the metrics label.
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
    /// A rejection of the kind [`RefusalKind::Other`].
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused {
            kind: RefusalKind::Other,
            reason: reason.into(),
        }
    }

    /// The value of the metrics label.
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

    /// The kind of the rejection, if the store rejected the call.
    #[must_use]
    pub const fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the store did not answer, or could not: the same call may succeed at any time.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Unknown { .. } | Self::NoQuorum { .. }
        )
    }

    /// Whether the call provably had no effect.
    #[must_use]
    pub const fn never_ran(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}
