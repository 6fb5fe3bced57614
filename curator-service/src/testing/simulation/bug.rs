//! All deliberate bugs of the election, the state and the listener.

use curator_election::sabotage as election;
use curator_listener::sabotage as listener;

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A bug of the election, the fenced store or the state.
    Election(election::Sabotage),
    /// A bug of the listener.
    Listener(listener::Sabotage),
}

impl Bug {
    /// All bugs.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_listener = listener::Sabotage::ALL.into_iter().map(Self::Listener);
        election::Sabotage::ALL
            .into_iter()
            .map(Self::Election)
            .chain(of_listener)
    }

    /// The bug's name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Election(bug) => format!("{bug:?}"),
            Self::Listener(bug) => format!("{bug:?}"),
        }
    }

    /// Enables the bug for this thread, or disables all bugs, while the returned value lives.
    pub(super) fn switch_on(bug: Option<Self>) -> (election::On, listener::On) {
        match bug {
            None => (election::switch_on(None), listener::switch_on(None)),
            Some(Self::Election(bug)) => (election::switch_on(Some(bug)), listener::switch_on(None)),
            Some(Self::Listener(bug)) => (election::switch_on(None), listener::switch_on(Some(bug))),
        }
    }
}
