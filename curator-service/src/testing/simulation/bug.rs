//! The deliberate bugs of the election, of the service and of the listener.

use crate::failpoint;

/// A deliberate bug: a failpoint of one of the crates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bug(&'static str);

impl Bug {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            curator_election::failpoint::ALL,
            failpoint::ALL,
            curator_listener::failpoint::ALL,
        ]
        .into_iter()
        .flatten()
        .map(|name| Self(name))
    }

    /// The bug with this name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|bug| bug.0 == name)
    }

    /// The name of its failpoint.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// Enables a bug on this thread, or disables all of them, for as long as the returned guard lives.
    pub(super) fn enable(bug: Option<Self>) -> curator_failpoint::Guard {
        curator_failpoint::enable(bug.map(Self::name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bugs_are_unique() {
        let names: std::collections::BTreeSet<_> = Bug::all().map(Bug::name).collect();
        assert_eq!(names.len(), Bug::all().count());
        assert_eq!(names.len(), 20);
    }
}
