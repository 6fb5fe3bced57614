//! The part of a history that shows what is wrong with it.

use std::collections::HashSet;
use std::time::Duration;

use super::linear::{Verdict, check};
use super::{Call, Step, Value};

/// Leaves out of a violated history what it can: the rest is still violated, and would have been possible if the whole
/// had been. In the order of the beginnings. What cannot be decided within `bound` states is kept.
pub fn shorten(initial: Value, calls: &[Call], bound: usize) -> Vec<Call> {
    let violated = |calls: &[Call]| matches!(check(initial, calls, bound), Verdict::Violated { .. });
    let mut kept = calls.to_vec();
    kept.sort_by_key(|call| (call.began, call.ended, call.id));
    if !violated(&kept) {
        return kept;
    }
    kept = shortest_beginning(&kept, violated);
    let mut size = kept.len().div_ceil(2);
    loop {
        let mut from = 0;
        while from < kept.len() {
            let without = leave_out(&kept, from, from + size);
            if without.len() < kept.len() && violated(&without) {
                kept = without;
            } else {
                from += size;
            }
        }
        if size == 1 {
            return kept;
        }
        size = size.div_ceil(2);
    }
}

/// The history up to the first answer with which it is violated.
fn shortest_beginning(calls: &[Call], violated: impl Fn(&[Call]) -> bool) -> Vec<Call> {
    let mut ends: Vec<Duration> = calls.iter().filter_map(|call| call.ended).collect();
    ends.sort_unstable();
    ends.dedup();
    // A history that is possible is so up to any moment: from some end on, all beginnings are violated.
    let (mut good, mut bad) = (0, ends.len());
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if violated(&until(calls, ends[middle - 1])) {
            bad = middle;
        } else {
            good = middle;
        }
    }
    bad.checked_sub(1)
        .map_or_else(|| calls.to_vec(), |last| until(calls, ends[last]))
}

/// What had been seen by then: what was not answered yet may or may not have taken effect.
fn until(calls: &[Call], end: Duration) -> Vec<Call> {
    calls
        .iter()
        .filter(|call| call.began <= end)
        .map(|call| Call {
            ended: call.ended.filter(|ended| *ended <= end),
            ..*call
        })
        .filter(|call| call.ended.is_some() || call.step.writes().is_some())
        .collect()
}

/// Leaves those of a range out without which the others are not harder to explain: what changes nothing, and writes of
/// what nobody needs who stays. Somebody who stays and found something else than expected needs any write.
fn leave_out(calls: &[Call], from: usize, to: usize) -> Vec<Call> {
    let mut out: Vec<bool> = (0..calls.len()).map(|at| (from..to).contains(&at)).collect();
    loop {
        let stay = || calls.iter().zip(&out).filter(|(_, out)| !**out).map(|(call, _)| call);
        let differs = stay().any(|call| matches!(call.step, Step::Differs(_)));
        let needed: HashSet<Value> = stay().filter_map(|call| call.step.needs()).collect();
        let kept_after_all: Vec<usize> = (0..calls.len())
            .filter(|at| out[*at])
            .filter(|at| {
                let writes = calls[*at].step.writes();
                writes.is_some_and(|value| differs || needed.contains(&value))
            })
            .collect();
        if kept_after_all.is_empty() {
            return stay().copied().collect();
        }
        // What they need in turn stays as well.
        for at in kept_after_all {
            out[at] = false;
        }
    }
}
