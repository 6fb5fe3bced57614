//! What an instance knows of the election.

use bytes::Bytes;

use crate::store::Revision;
use crate::term::{Term, WentBack};
use crate::value::LeaderValue;

/// What this instance knows of the election at the moment. It leads, or follows, or knows neither; never two at once.
///
/// Published through a `tokio::sync::watch`, which keeps only the newest: be right if you miss any in between.
#[derive(Clone, Debug, PartialEq)]
pub enum ElectionStatus<V> {
    /// Not known: no quorum, no leader, or between two rounds.
    Undetermined(Reason),
    /// Another candidate leads, as far as this instance has been told.
    Follower(LeaderInfo<V>),
    /// This instance won the election. Ask the term whether it is still valid before each act.
    Leader(Term),
}

/// Why nothing is known at the moment, in words for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The elector has not begun.
    Starting,
    /// The elector has ended.
    ElectorGone,
    /// No round could be opened.
    OpenFailed {
        /// One word for why, as [`StoreError::word`](crate::store::StoreError::word) has them, or `not_running` of whoever has no
        /// store yet.
        word: &'static str,
        /// What the store says.
        error: String,
    },
    /// The own lease was not renewed in time.
    LeaseExpired,
    /// The store no longer knows the own lease.
    LeaseGone,
    /// The store is another one than before, for this reason.
    WrongCluster(String),
    /// The store has lost what it knew before.
    WentBack(WentBack),
    /// The campaign ended without elected.
    CampaignFailed {
        /// One word for why, as [`StoreError::word`](crate::store::StoreError::word) has them, or `key_lost`.
        word: &'static str,
        /// What the store says.
        error: String,
    },
    /// The lock key of the own term is gone, or is not the oldest any more.
    LockLost,
    /// An access of the own term was refused, or the term was found past its deadline.
    FencedOut,
    /// This instance was asked to give up its leadership.
    StepDown,
    /// This instance is shutting down.
    Shutdown,
    /// No candidate leads.
    NoLeader,
    /// The leader is this candidate itself, by a key whose victory it has not seen.
    OwnEarlierKey,
    /// Another process has the id of this one and was there before, as this text says.
    Duplicate(String),
    /// The leader says something of itself that cannot be read.
    Undecodable(String),
    /// Whom this instance followed has not been confirmed for too long.
    ObservationStale,
    /// What this instance would lead for has shown no [sign of life](crate::LivenessProbe) for too long.
    Stuck,
    /// This instance may not stand for election, as this text says, and nobody else leads.
    Barred(String),
}

impl Reason {
    /// One word for the reason: the label `reason` of the metric of role changes.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::ElectorGone => "elector_gone",
            // Whatever it was that failed: what has to change is the same.
            Self::OpenFailed { word, .. } | Self::CampaignFailed { word, .. } => word,
            Self::LeaseExpired => "lease_expired",
            Self::LeaseGone => "lease_gone",
            Self::WrongCluster(_) => "wrong_cluster",
            Self::WentBack(_) => "went_back",
            Self::LockLost => "lock_lost",
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
            Self::Starting => f.write_str("the election has not begun"),
            Self::ElectorGone => f.write_str("the election task has ended"),
            Self::OpenFailed { error, .. } => write!(f, "no round could be opened: {error}"),
            Self::LeaseExpired => f.write_str("the lease was not renewed in time"),
            Self::WrongCluster(error) => f.write_str(error),
            Self::WentBack(went_back) => went_back.fmt(f),
            Self::LeaseGone => f.write_str("the lease is gone from the store"),
            Self::CampaignFailed { error, .. } => write!(f, "the campaign failed: {error}"),
            Self::LockLost => f.write_str("the lock key is gone from the store"),
            Self::FencedOut => f.write_str("an access of this term was refused, or its deadline has passed"),
            Self::StepDown => f.write_str("asked to step down"),
            Self::Shutdown => f.write_str("shutting down"),
            Self::NoLeader => f.write_str("no candidate leads"),
            Self::OwnEarlierKey => f.write_str("the oldest key is one that an earlier process of ours left behind"),
            Self::Undecodable(error) => f.write_str(error),
            Self::Duplicate(told) | Self::Barred(told) => f.write_str(told),
            Self::Stuck => f.write_str("this instance has not been able to serve for too long"),
            Self::ObservationStale => f.write_str("nothing has been heard of the election for too long"),
        }
    }
}

/// The leader that an instance follows.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaderInfo<V> {
    /// What the leader says of itself.
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
            Self::Follower(following) => Some(following),
            _ => None,
        }
    }
}
