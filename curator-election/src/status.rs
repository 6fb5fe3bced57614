//! What an instance knows of the election.

use bytes::Bytes;

use crate::store::Revision;
use crate::term::Term;
use crate::value::LeaderValue;

/// What this instance knows of the election at the moment. It leads, or follows, or knows neither; never two at once.
///
/// Published through a `tokio::sync::watch`, which keeps only the newest: be right if you miss any in between.
#[derive(Clone, Debug, PartialEq)]
pub enum ElectionStatus<V> {
    /// Not known: no quorum, no leader, or between two rounds.
    Undetermined,
    /// Another candidate leads, as far as this instance has been told.
    Follower(Following<V>),
    /// This instance won the election. Ask the term whether it is still valid before each act.
    Leader(Term),
}

/// The leader that an instance follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Following<V> {
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
    pub const fn following(&self) -> Option<&Following<V>> {
        match self {
            Self::Follower(following) => Some(following),
            _ => None,
        }
    }
}
