//! Many seeds, on several threads.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::testing::simulation::{Bug, Outcome, Scenario, simulate};

/// Which seeds to run.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The first.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// On how many threads.
    pub threads: usize,
    /// A deliberate bug to look for.
    pub bug: Option<Bug>,
}

/// What was run so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Seeds.
    pub seeds: u64,
    /// Terms in all of them.
    pub terms: u64,
    /// Answered calls in all of them.
    pub answered: u64,
    /// How many of those by another instance than the one that was called.
    pub forwarded: u64,
}

/// A seed that broke a rule.
#[derive(Debug)]
pub struct Found {
    /// Which one: the lowest of those that were run.
    pub scenario: Scenario,
    /// What became of it.
    pub outcome: Outcome,
}

/// Runs the seeds, until one of them breaks a rule. `progress` is told after each seed.
pub fn search(search: Search, progress: impl Fn(Totals) + Sync) -> (Totals, Option<Found>) {
    let next = AtomicU64::new(search.from);
    let end = search.from + search.seeds;
    let totals = Mutex::new(Totals::default());
    let found: Mutex<Option<Found>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..search.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let scenario = Scenario::new(seed);
                    let outcome = simulate(&scenario, search.bug, false);
                    let now = {
                        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                        totals.seeds += 1;
                        totals.terms += outcome.terms as u64;
                        totals.answered += outcome.answered;
                        totals.forwarded += outcome.forwarded;
                        *totals
                    };
                    progress(now);
                    if outcome.violation.is_some() {
                        // Those that were begun before are still run, so that the lowest is told.
                        next.fetch_max(end, Ordering::Relaxed);
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        if found.as_ref().is_none_or(|other| other.scenario.seed > seed) {
                            *found = Some(Found { scenario, outcome });
                        }
                    }
                }
            });
        }
    });
    let totals = *totals.lock().unwrap_or_else(PoisonError::into_inner);
    (totals, found.into_inner().unwrap_or_else(PoisonError::into_inner))
}
