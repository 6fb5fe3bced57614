//! A rolling upgrade from an earlier commit, and back, under calls through all instances.

use std::path::Path;
use std::time::Instant;

use curator_harness::curator::{EMBEDDING_BEFORE, embedding_before_from_env, embedding_from_env};

use crate::forwarding::Show;
use crate::load::Outcome;
use crate::test_cluster::SOON;

/// One instance that was replaced: which, from when on, and until all was well again.
struct Replaced {
    instance: usize,
    from: Instant,
    to: Instant,
}

/// Stops an instance as operators do, and starts this program in its place.
fn replace(show: &mut Show, instance: usize, program: &Path) -> Replaced {
    let from = Instant::now();
    show.stage.curators[instance].terminate().unwrap();
    let ended = show.stage.curators[instance].wait_exit(SOON).unwrap();
    assert!(ended.success(), "{ended}");
    show.stage.silence(instance);
    show.goes_on(&show.stage.others(instance));
    show.stage.curators[instance].restart_as(program).unwrap();
    show.stage.agreed(SOON);
    show.goes_on(&[0, 1, 2]);
    let pid = show.stage.curators[instance].pid();
    let runs = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(runs, program.canonicalize().unwrap());
    Replaced {
        instance,
        from,
        to: Instant::now(),
    }
}

/// Replaces all three, the leader last, so that it has followers of the other version until then.
fn replace_all(show: &mut Show, program: &Path) -> Vec<Replaced> {
    let leader = show.stage.agreed(SOON);
    let followers = show.stage.others(leader);
    let mut replaced = Vec::new();
    for follower in followers {
        replaced.push(replace(show, follower, program));
        assert_eq!(show.stage.agreed(SOON), leader, "whoever leads goes on meanwhile");
    }
    replaced.push(replace(show, leader, program));
    replaced
}

#[test]
fn a_rolling_upgrade_and_the_way_back_cost_no_call() {
    let Some(before) = embedding_before_from_env().unwrap() else {
        println!(
            "SKIPPED: a rolling upgrade, for {EMBEDDING_BEFORE} is not set: `cargo xtask upgrade` builds an earlier commit"
        );
        return;
    };
    let now = embedding_from_env().unwrap();
    let from = Instant::now();
    let mut show = Show::of("upgrade", &before);
    let mut replaced = replace_all(&mut show, &now);
    replaced.extend(replace_all(&mut show, &before));
    let others: Vec<_> = replaced.iter().map(|each| show.stage.others(each.instance)).collect();
    let history = show.close("a rolling upgrade and the way back", from, &[0, 1, 2]);
    let answered = history.calls.iter().filter(|call| call.is_answered()).count();
    println!("measured: {answered} of {} calls answered", history.calls.len());
    for (each, others) in replaced.iter().zip(&others) {
        let failed = history.failed(others, each.from, each.to);
        assert!(failed.is_empty(), "through those that stay: {failed:?}");
        for call in history.failed(&[each.instance], each.from, each.to) {
            assert!(matches!(call.outcome, Outcome::NoInstance(_)), "{call:?}");
        }
    }
}
