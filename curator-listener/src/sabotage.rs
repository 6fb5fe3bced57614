//! Deliberate bugs: a simulation that does not find them proves nothing.
//!
//! One is switched on for the present thread, and only in a build with the feature `simulation` *and* with debug assertions. In
//! every other build `on` is a constant `false`, and what depends on it is not compiled in.

/// A bug that can be switched on. Each is named after what is wrong then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A forwarded call whose answer was lost is sent again.
    SendsLostCallAgain,
    /// Calls are answered after the end of the term that they were begun in.
    AnswersForEndedTerm,
    /// A call waits for a leader beyond its deadline.
    HoldsForever,
    /// A call that is being served or forwarded outlasts its deadline.
    NoDeadline,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::SendsLostCallAgain,
        Self::AnswersForEndedTerm,
        Self::HoldsForever,
        Self::NoDeadline,
    ];
}

/// Whether this bug is on.
#[cfg(not(all(feature = "simulation", debug_assertions)))]
pub(crate) const fn on(_: Sabotage) -> bool {
    false
}

#[cfg(all(feature = "simulation", debug_assertions))]
mod switch {
    use std::cell::Cell;

    use super::Sabotage;

    thread_local! {
        static ON: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Whether this bug is on.
    pub(crate) fn on(bug: Sabotage) -> bool {
        ON.get() == Some(bug)
    }

    /// Switches a bug on for this thread, or all of them off, until the returned value is dropped.
    #[must_use = "it is off again at once"]
    pub fn switch_on(bug: Option<Sabotage>) -> On {
        On {
            before: ON.replace(bug),
        }
    }

    /// A bug is on for as long as this lives.
    #[derive(Debug)]
    pub struct On {
        before: Option<Sabotage>,
    }

    impl Drop for On {
        fn drop(&mut self) {
            ON.set(self.before);
        }
    }
}

#[cfg(all(feature = "simulation", debug_assertions))]
pub(crate) use switch::on;
#[cfg(all(feature = "simulation", debug_assertions))]
pub use switch::{On, switch_on};
