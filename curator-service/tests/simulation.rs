//! The simulation in small: some seeds, that a bug is found and made smaller. `cargo xtask sim` runs the thousands.

#![cfg(debug_assertions)]

use curator_service::testing::simulation::{Bug, Found, Scenario, Search, search, shrink, simulate};

fn run(from: u64, seeds: u64, bug: Option<Bug>) -> (u64, Option<Found>) {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let wanted = Search {
        from,
        seeds,
        threads,
        bug,
    };
    let (totals, found) = search(wanted, |_| {});
    assert!(
        found.is_some() || totals.terms > totals.seeds,
        "little happens: {totals:?}"
    );
    (totals.seeds, found)
}

#[test]
fn all_holds_under_faults() {
    let (_, found) = run(0, 20, None);
    if let Some(Found { scenario, outcome }) = found {
        panic!(
            "{}\nto see it again: cargo xtask sim {}",
            outcome.trace,
            scenario.arguments()
        );
    }
}

/// The bugs that nearly each seed shows; `cargo xtask sim --bugs` looks for all of them.
#[test]
fn deliberate_bugs_are_found() {
    for name in ["KeepsLease", "ViewGoesBack", "WritesWithoutConditions"] {
        let bug = Bug::named(name);
        assert!(bug.is_some(), "unknown bug {name}");
        let (seeds, found) = run(0, 200, bug);
        assert!(found.is_some(), "{name} was not found in {seeds} seeds");
    }
}

#[test]
fn what_fails_is_made_smaller_and_still_fails() {
    let bug = Bug::named("WritesWithoutConditions");
    assert!(bug.is_some());
    let (_, found) = run(0, 200, bug);
    let scenario = found.expect("found").scenario;
    let (smaller, outcome) = shrink(&scenario, bug).expect("fails each time");
    assert!(smaller.faults() < scenario.faults());
    assert!(outcome.violation.is_some());
}

/// Exactly, where tokio's own choices come from the seed as well.
#[cfg(tokio_unstable)]
#[test]
fn a_seed_runs_the_same_way_each_time() {
    for seed in 0..10 {
        let scenario = Scenario::new(seed);
        assert_eq!(
            simulate(&scenario, None, true).trace,
            simulate(&scenario, None, true).trace
        );
    }
}

#[test]
fn a_scenario_can_be_told_in_words() {
    let scenario = Scenario::new(7);
    assert_eq!(scenario.arguments(), "--seed 7");
    assert_eq!(scenario.keeping(&[2, 0]).arguments(), "--seed 7 --keep 0,2");
    assert!(simulate(&scenario.keeping(&[]), None, false).violation.is_none());
}
