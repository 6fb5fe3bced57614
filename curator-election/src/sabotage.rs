//! Deliberate bugs: a simulation that does not find them proves nothing.
//!
//! One is switched on for the present thread, and only in a build with the feature `sabotage` *and* with debug assertions. In
//! every other build `on` is a constant `false`, and what depends on it is not compiled in.

/// A bug that can be switched on. Each is named after what is wrong then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A lease counts from the answer to its renewal, and not from its sending.
    DeadlineFromReceipt,
    /// A term lasts until the very end of its lease.
    NoMargin,
    /// A renewal that comes too late makes a term valid again that was found ended.
    RevivesEndedTerm,
    /// The lease is left to run out when a round ends.
    KeepsLease,
    /// News of a leader are believed however old they are.
    NewsNeverTooOld,
    /// Whoever finds no older key has won, whatever has become of its own.
    NoRecheckOfOwnKey,
    /// Transactions of a term are made whoever leads.
    NoGuard,
    /// The guard is that the lock key has its value, and not that it is the one that the term began with.
    GuardByValue,
    /// A transaction whose answer was lost is sent once more.
    SendsLostWriteAgain,
    /// Reads do not wait for a fence.
    NoBarrier,
    /// A read uses a fence that was sent before it began.
    JoinsFenceUnderWay,
    /// The view takes whatever comes, older or newer.
    ViewGoesBack,
    /// What a decision was made on is not a condition of what it writes.
    WritesWithoutConditions,
    /// Changes that touch the same keys share a transaction.
    BatchesWhatTouches,
    /// A change whose condition did not hold is acknowledged.
    AcknowledgesConflict,
    /// A fence that is answered from before what the term has seen passes.
    IgnoresStoreGoneBack,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::DeadlineFromReceipt,
        Self::NoMargin,
        Self::RevivesEndedTerm,
        Self::KeepsLease,
        Self::NewsNeverTooOld,
        Self::NoRecheckOfOwnKey,
        Self::NoGuard,
        Self::GuardByValue,
        Self::SendsLostWriteAgain,
        Self::NoBarrier,
        Self::JoinsFenceUnderWay,
        Self::ViewGoesBack,
        Self::WritesWithoutConditions,
        Self::BatchesWhatTouches,
        Self::AcknowledgesConflict,
        Self::IgnoresStoreGoneBack,
    ];
}

/// Whether this bug is on.
#[cfg(not(all(feature = "sabotage", debug_assertions)))]
#[must_use]
pub const fn on(_: Sabotage) -> bool {
    false
}

#[cfg(all(feature = "sabotage", debug_assertions))]
mod switch {
    use std::cell::Cell;

    use super::Sabotage;

    thread_local! {
        static ON: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Whether this bug is on.
    #[must_use]
    pub fn on(bug: Sabotage) -> bool {
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

#[cfg(all(feature = "sabotage", debug_assertions))]
pub use switch::{On, on, switch_on};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_on_by_itself() {
        assert!(Sabotage::ALL.iter().all(|bug| !on(*bug)));
    }

    #[cfg(all(feature = "sabotage", debug_assertions))]
    #[test]
    fn one_is_on_until_its_switch_is_dropped() {
        let switch = switch_on(Some(Sabotage::NoGuard));
        assert!(on(Sabotage::NoGuard) && !on(Sabotage::NoMargin));
        std::thread::scope(|scope| scope.spawn(|| assert!(!on(Sabotage::NoGuard))).join()).expect("no other thread");
        drop(switch);
        assert!(!on(Sabotage::NoGuard));
    }
}
