//! What happened so far, in order, for many readers: each remembers how far it read and can wait for more.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use super::clock::Deadline;
use super::lock;

/// The oldest entries go when there are more than this many, so that a program that runs for days does not grow.
const KEPT: usize = 100_000;

/// A place in a [`Journal`]: everything recorded after it is news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

impl Mark {
    /// Before everything.
    pub const START: Self = Self(0);
}

/// An ordered record with waiting readers.
#[derive(Debug)]
pub struct Journal<T> {
    state: Mutex<State<T>>,
    grown: Condvar,
}

#[derive(Debug)]
struct State<T> {
    entries: VecDeque<T>,
    gone: u64,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                entries: VecDeque::new(),
                gone: 0,
            }),
            grown: Condvar::new(),
        }
    }
}

impl<T> State<T> {
    fn end(&self) -> u64 {
        self.gone + self.entries.len() as u64
    }

    fn after(&self, mark: u64) -> impl Iterator<Item = &T> {
        let skip = usize::try_from(mark.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip)
    }
}

impl<T: Clone> Journal<T> {
    /// Adds an entry and wakes all who wait.
    pub fn record(&self, entry: T) {
        let mut state = lock(&self.state);
        state.entries.push_back(entry);
        if state.entries.len() > KEPT {
            state.entries.pop_front();
            state.gone += 1;
        }
        self.grown.notify_all();
    }

    /// Where the journal ends now.
    pub fn mark(&self) -> Mark {
        Mark(lock(&self.state).end())
    }

    /// All entries after the mark.
    pub fn since(&self, mark: Mark) -> Vec<T> {
        lock(&self.state).after(mark.0).cloned().collect()
    }

    /// The last entry that `wanted` picks.
    pub fn last(&self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        lock(&self.state)
            .entries
            .iter()
            .rev()
            .find(|entry| wanted(entry))
            .cloned()
    }

    /// Waits for the first entry after the mark from which `pick` makes something. `None` when the deadline passes
    /// first.
    pub fn wait<U>(&self, mark: Mark, deadline: Deadline, mut pick: impl FnMut(&T) -> Option<U>) -> Option<U> {
        let mut state = lock(&self.state);
        let mut seen = mark.0;
        loop {
            if let Some(found) = state.after(seen).find_map(&mut pick) {
                return Some(found);
            }
            seen = seen.max(state.end());
            let left = deadline.remaining();
            if left.is_zero() {
                return None;
            }
            state = self
                .grown
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_waiting_reader_sees_what_comes_after_its_mark_only() {
        let journal = Arc::new(Journal::default());
        journal.record(7);
        let mark = journal.mark();
        let writer = thread::spawn({
            let journal = Arc::clone(&journal);
            move || [1, 2, 7].into_iter().for_each(|n| journal.record(n))
        });
        let deadline = Deadline::after(Duration::from_secs(5));
        assert_eq!(journal.wait(mark, deadline, |n| (*n == 7).then_some(*n)), Some(7));
        writer.join().unwrap();
        assert_eq!(journal.since(mark), [1, 2, 7]);
        assert_eq!(journal.since(Mark::START), [7, 1, 2, 7]);
        assert_eq!(
            journal.wait(journal.mark(), Deadline::after(Duration::from_millis(20)), |n| Some(*n)),
            None
        );
    }

    #[test]
    fn marks_hold_when_old_entries_go() {
        let journal = Journal::default();
        (0..KEPT).for_each(|n| journal.record(n));
        let mark = journal.mark();
        (0..10).for_each(|n| journal.record(n));
        assert_eq!(journal.since(mark), (0..10).collect::<Vec<_>>());
        assert_eq!(journal.since(Mark::START).len(), KEPT);
    }
}
