//! The status of an instance in the election.

use bytes::Bytes;

use crate::store::Revision;
use crate::term::{Term, WentBack};
use crate::value::LeaderValue;

/// The role of this instance: leader, follower, or undetermined.
///
/// Published through a `tokio::sync::watch`, which keeps only the newest value: a receiver may miss values in between.
#[derive(Clone, Debug, PartialEq)]
pub enum ElectionStatus<V> {
    /// The role is undetermined: no quorum, no leader, or between two rounds.
    Undetermined(Reason),
    /// Another candidate leads, by the newest observation.
    Follower(LeaderInfo<V>),
    /// This instance won the election. Check that the term is still valid before each action.
    Leader(Term),
}

/// Why the role is undetermined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The elector has not started.
    Starting,
    /// The elector has stopped.
    ElectorGone,
    /// Starting an election round failed.
    OpenFailed {
        /// The kind of the error: that of [`StoreError::word`](crate::store::StoreError::word), or `not_running`
        /// without a store.
        word: &'static str,
        /// The store's message.
        error: String,
    },
    /// The own lease was not renewed in time.
    LeaseExpired,
    /// The own lease does not exist any more.
    LeaseGone,
    /// The store is another cluster than before.
    WrongCluster(String),
    /// The store's revision went back.
    WentBack(WentBack),
    /// The campaign failed.
    CampaignFailed {
        /// The kind of the error: that of [`StoreError::word`](crate::store::StoreError::word), or `key_lost`.
        word: &'static str,
        /// The store's message.
        error: String,
    },
    /// The lock key of the own term is deleted, or is not the oldest any more.
    LockLost,
    /// The store did not confirm the own term for too long.
    NotConfirmed,
    /// The store rejected an access of the own term, or the deadline of the term has passed.
    FencedOut,
    /// This instance was asked to step down.
    StepDown,
    /// This instance is shutting down.
    Shutdown,
    /// No candidate leads.
    NoLeader,
    /// The leader is this candidate itself, by a key whose victory it has not seen.
    OwnEarlierKey,
    /// Another process with the id of this one has the older key; the message names it.
    Duplicate(String),
    /// The leader's value cannot be decoded.
    Undecodable(String),
    /// The last observation of the leader is older than the TTL.
    ObservationStale,
    /// The [liveness probe](crate::LivenessProbe) has failed.
    Stuck,
    /// This instance may not campaign, for this reason, and no other candidate leads.
    Barred(String),
}

impl Reason {
    /// One word for the reason: the label `reason` of the metric of role changes.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::ElectorGone => "elector_gone",
            // The kind of the error, whichever call failed.
            Self::OpenFailed { word, .. } | Self::CampaignFailed { word, .. } => word,
            Self::LeaseExpired => "lease_expired",
            Self::LeaseGone => "lease_gone",
            Self::WrongCluster(_) => "wrong_cluster",
            Self::WentBack(_) => "went_back",
            Self::LockLost => "lock_lost",
            Self::NotConfirmed => "not_confirmed",
            Self::FencedOut => "fenced_out",
            Self::StepDown => "step_down",
            Self::Shutdown => "shutdown",
            Self::NoLeader => "no_leader",
            Self::OwnEarlierKey => "own_earlier_key",
            Self::Duplicate(_) => "duplicate",
            Self::Undecodable(_) => "undecodable",
            Self::Stuck => "stuck",
            Self::Barred(_) => "barred",
            Self::ObservationStale => "news_too_old",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => f.write_str("the election has not started"),
            Self::ElectorGone => f.write_str("the election task has stopped"),
            Self::OpenFailed { error, .. } => write!(f, "cannot start an election round: {error}"),
            Self::LeaseExpired => f.write_str("lease expired: not renewed in time"),
            Self::WrongCluster(error) => f.write_str(error),
            Self::WentBack(went_back) => went_back.fmt(f),
            Self::LeaseGone => f.write_str("lease not found in the store"),
            Self::CampaignFailed { error, .. } => write!(f, "campaign failed: {error}"),
            Self::LockLost => f.write_str("lock key not found in the store"),
            Self::NotConfirmed => f.write_str("the store did not confirm the term for too long"),
            Self::FencedOut => f.write_str("term ended: the store rejected an access, or the deadline has passed"),
            Self::StepDown => f.write_str("asked to step down"),
            Self::Shutdown => f.write_str("shutting down"),
            Self::NoLeader => f.write_str("no candidate leads"),
            Self::OwnEarlierKey => {
                f.write_str("the oldest key was left behind by an earlier process of this candidate")
            }
            Self::Undecodable(error) => f.write_str(error),
            Self::Duplicate(message) | Self::Barred(message) => f.write_str(message),
            Self::Stuck => f.write_str("liveness check failed: this instance was unable to serve for too long"),
            Self::ObservationStale => f.write_str("no update of the election received within the TTL"),
        }
    }
}

/// The leader that an instance follows.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaderInfo<V> {
    /// The leader's value.
    pub leader: V,
    /// Its lock key, without the store's namespace.
    pub key: Bytes,
    /// The revision at which the lock key was created.
    pub revision: Revision,
}

impl<V: LeaderValue> ElectionStatus<V> {
    /// The term, if this instance leads and the term is valid at this moment.
    #[must_use]
    pub fn valid_term(&self) -> Option<&Term> {
        match self {
            Self::Leader(term) if term.is_valid() => Some(term),
            _ => None,
        }
    }

    /// The leader, if another candidate leads.
    #[must_use]
    pub const fn leader_info(&self) -> Option<&LeaderInfo<V>> {
        match self {
            Self::Follower(leader) => Some(leader),
            _ => None,
        }
    }
}
