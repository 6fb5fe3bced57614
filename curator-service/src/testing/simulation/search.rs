//! Runs many seeds on several threads.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::testing::simulation::{Bug, Outcome, Scenario, simulate};

/// The seeds to run.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The first seed.
    pub from: u64,
    /// The number of seeds.
    pub seeds: u64,
    /// The number of threads.
    pub threads: usize,
    /// A deliberate bug to find.
    pub bug: Option<Bug>,
}

/// The progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// The number of seeds.
    pub seeds: u64,
    /// The number of terms.
    pub terms: u64,
    /// The number of answered calls.
    pub answered: u64,
    /// The number of calls answered by another instance than the one that was called.
    pub forwarded: u64,
}

/// A seed that violates an invariant.
#[derive(Debug)]
pub struct Found {
    /// The seed: the lowest of those that were run.
    pub scenario: Scenario,
    /// The result of its run.
    pub outcome: Outcome,
}

/// Runs the seeds until one of them violates an invariant. `progress` is called after each seed.
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
                        // Earlier seeds are still completed, so that the lowest is reported.
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
