//! Failpoints: deliberate bugs, by name. A simulation that does not find them proves nothing.
//!
//! A failpoint is enabled for the current thread, and only in a build with the feature `enabled` *and* with debug
//! assertions. In every other build [`on`] is a constant `false`, and the code behind it is not compiled in.
//!
//! Each crate lists the names of its own failpoints; a name must be unique in the process.

#![cfg_attr(docsrs, feature(doc_cfg))]

/// Whether the failpoint with this name is enabled on the current thread.
#[cfg(not(all(feature = "enabled", debug_assertions)))]
#[must_use]
pub const fn on(_: &'static str) -> bool {
    false
}

#[cfg(all(feature = "enabled", debug_assertions))]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static ENABLED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether the failpoint with this name is enabled on the current thread.
    #[must_use]
    pub fn on(name: &'static str) -> bool {
        ENABLED.get() == Some(name)
    }

    /// Enables one failpoint on the current thread, or none, until the returned guard is dropped.
    #[must_use = "the failpoint is disabled when the guard is dropped"]
    pub fn enable(name: Option<&'static str>) -> Guard {
        Guard {
            previous: ENABLED.replace(name),
        }
    }

    /// Keeps a failpoint enabled while it lives.
    #[derive(Debug)]
    pub struct Guard {
        previous: Option<&'static str>,
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            ENABLED.set(self.previous);
        }
    }
}

#[cfg(all(feature = "enabled", debug_assertions))]
pub use switch::{Guard, enable, on};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failpoint_is_disabled_by_default() {
        assert!(!on("one") && !on("other"));
    }

    #[cfg(all(feature = "enabled", debug_assertions))]
    #[test]
    fn failpoint_is_enabled_on_one_thread_until_its_guard_is_dropped() {
        let guard = enable(Some("one"));
        assert!(on("one") && !on("other"));
        std::thread::scope(|scope| scope.spawn(|| assert!(!on("one"))).join()).expect("no panic on the other thread");
        drop(guard);
        assert!(!on("one"));
    }
}
