//! The search for an order: Wing and Gong's, which remembers where it has been, as Lowe has it.
//!
//! What makes it short for a register: a step that writes nothing and fits goes first, since no order gets worse by it.
//! A value that one call alone writes and another has seen must have been written before that one ended. And writes of
//! which nobody speaks, and nobody knows whether they took effect, are all alike: they count as one value, and are
//! taken in turn.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Call, Step, Value};

/// What the search came to. The number is that of the states it went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable {
        /// How many states it took.
        states: usize,
    },
    /// There is none: no honest register answers so.
    Violated {
        /// How many states it took.
        states: usize,
    },
    /// The bound was reached before either was known.
    Undecided {
        /// How many states it took.
        states: usize,
    },
}

/// Stands for each value that only calls of unknown fate write and nobody speaks of.
const UNSPOKEN: Value = Value::MAX;

/// Looks for an order of the calls of one register that held `initial` at first, in at most `bound` states.
pub fn check(initial: Value, calls: &[Call], bound: usize) -> Verdict {
    Search::new(initial, calls).run(initial, bound)
}

/// A call with the times that it must lie between.
#[derive(Clone, Copy, Debug)]
struct Span {
    began: Duration,
    ended: Duration,
    step: Step,
}

/// A call that need not take effect at all.
#[derive(Clone, Copy, Debug)]
struct Maybe {
    began: Duration,
    step: Step,
}

/// Where the search is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    value: Value,
    /// All calls before this one have been taken.
    low: usize,
    /// Those after it that have, in order.
    above: Vec<usize>,
    /// Which of those that need not take effect have, in order.
    taken: Vec<usize>,
    /// How many of the writes that nobody speaks of have.
    unspoken: usize,
}

struct Search {
    /// Those that took effect, by their beginnings.
    spans: Vec<Span>,
    maybes: Vec<Maybe>,
    /// When the writes began that nobody speaks of, in order.
    unspoken: Vec<Duration>,
}

impl Search {
    fn new(initial: Value, calls: &[Call]) -> Self {
        let mut writers: HashMap<Value, usize> = HashMap::from([(initial, 1)]);
        // When the first call that needs the value had its answer.
        let mut needed: HashMap<Value, Duration> = HashMap::new();
        let mut mentioned: HashSet<Value> = HashSet::from([initial]);
        let mut differs = false;
        for call in calls {
            if let Some(value) = call.step.writes() {
                *writers.entry(value).or_default() += 1;
            }
            mentioned.extend(call.step.mentions());
            if let (Some(value), Some(ended)) = (call.step.needs(), call.ended) {
                needed
                    .entry(value)
                    .and_modify(|first| *first = ended.min(*first))
                    .or_insert(ended);
            }
            differs |= matches!(call.step, Step::Differs(_)) && call.ended.is_some();
        }
        let mut search = Self {
            spans: Vec::new(),
            maybes: Vec::new(),
            unspoken: Vec::new(),
        };
        for call in calls {
            let Call { began, step, .. } = *call;
            let span = |ended: Duration| Span {
                began,
                ended: ended.max(began),
                step,
            };
            if let Some(ended) = call.ended {
                search.spans.push(span(ended));
                continue;
            }
            // One that changes nothing and has not been answered says nothing.
            let Some(value) = step.writes() else { continue };
            match needed.get(&value) {
                Some(ended) if writers[&value] == 1 => search.spans.push(span(*ended)),
                None if !mentioned.contains(&value) && matches!(step, Step::Write(_)) => search.unspoken.push(began),
                _ => search.maybes.push(Maybe { began, step }),
            }
        }
        if !differs {
            // Without one that found something else, a value that nobody has seen changes nothing for anybody.
            search.unspoken.clear();
            search
                .maybes
                .retain(|maybe| maybe.step.writes().is_some_and(|value| mentioned.contains(&value)));
        }
        search.spans.sort_by_key(|span| (span.began, span.ended));
        search.maybes.sort_by_key(|maybe| maybe.began);
        search.unspoken.sort_unstable();
        search
    }

    fn run(&self, initial: Value, bound: usize) -> Verdict {
        let mut first = State {
            value: initial,
            low: 0,
            above: Vec::new(),
            taken: Vec::new(),
            unspoken: 0,
        };
        self.settle(&mut first);
        let mut seen = HashSet::from([first.clone()]);
        let mut open = vec![first];
        while let Some(state) = open.pop() {
            if state.low == self.spans.len() {
                return Verdict::Linearizable { states: seen.len() };
            }
            for next in self.after(&state) {
                if seen.contains(&next) {
                    continue;
                }
                if seen.len() >= bound {
                    return Verdict::Undecided { states: seen.len() };
                }
                seen.insert(next.clone());
                open.push(next);
            }
        }
        Verdict::Violated { states: seen.len() }
    }

    /// The calls that may be next: those that began before any other that is left had ended. With that moment.
    fn candidates(&self, state: &State) -> (Vec<usize>, Duration) {
        let (mut found, mut first_end) = (Vec::new(), Duration::MAX);
        let mut above = state.above.iter().peekable();
        for (at, span) in self.spans.iter().enumerate().skip(state.low) {
            if span.began > first_end {
                break;
            }
            if above.next_if(|taken| **taken == at).is_some() {
                continue;
            }
            found.push(at);
            first_end = first_end.min(span.ended);
        }
        (found, first_end)
    }

    /// Takes all that fit and write nothing. Even one that writes what is there already may have to come later.
    fn settle(&self, state: &mut State) {
        loop {
            let (mut fitting, _) = self.candidates(state);
            fitting.retain(|at| {
                let step = self.spans[*at].step;
                step.writes().is_none() && step.apply(state.value).is_some()
            });
            if fitting.is_empty() {
                return;
            }
            for at in fitting {
                self.take(state, at);
            }
        }
    }

    fn take(&self, state: &mut State, at: usize) {
        if let Err(place) = state.above.binary_search(&at) {
            state.above.insert(place, at);
        }
        let gone = state
            .above
            .iter()
            .enumerate()
            .take_while(|(offset, taken)| **taken == state.low + offset)
            .count();
        state.above.drain(..gone);
        state.low += gone;
    }

    /// All states one change further. The last is looked at first: the one whose call ended first.
    fn after(&self, state: &State) -> Vec<State> {
        let (mut candidates, first_end) = self.candidates(state);
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut State)| {
            let mut after = state.clone();
            change(&mut after);
            self.settle(&mut after);
            next.push(after);
        };
        if let Some(began) = self.unspoken.get(state.unspoken)
            && *began <= first_end
        {
            step(&|after| {
                after.value = UNSPOKEN;
                after.unspoken += 1;
            });
        }
        for (at, maybe) in self.maybes.iter().enumerate() {
            if maybe.began > first_end {
                break;
            }
            if let (Err(place), Some(value)) = (state.taken.binary_search(&at), maybe.step.apply(state.value)) {
                step(&|after| {
                    after.value = value;
                    after.taken.insert(place, at);
                });
            }
        }
        candidates.sort_by_key(|at| std::cmp::Reverse(self.spans[*at].ended));
        for at in candidates {
            if let Some(value) = self.spans[at].step.apply(state.value) {
                step(&|after| {
                    after.value = value;
                    self.take(after, at);
                });
            }
        }
        next
    }
}
