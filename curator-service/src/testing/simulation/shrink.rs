//! Shrinks a failing scenario while it violates the same invariant.

use std::time::Duration;

use crate::testing::simulation::{Bug, Outcome, Scenario, Violation, simulate};

/// The maximum number of runs.
const MAX_RUNS: usize = 400;

/// The smallest scenario found that violates the same invariant, and its result. `None` if `scenario` violates none.
#[must_use]
pub fn shrink(scenario: &Scenario, bug: Option<Bug>) -> Option<(Scenario, Outcome)> {
    let outcome = simulate(scenario, bug, false);
    let Violation { rule, .. } = outcome.violation.clone()?;
    let mut smallest = Smallest {
        scenario: scenario.clone(),
        outcome,
        rule,
        bug,
        runs: 0,
    };
    // In turn, since one step enables another.
    while smallest.fewer_faults() | smallest.fewer_parts() {}
    Some((smallest.scenario, smallest.outcome))
}

struct Smallest {
    scenario: Scenario,
    outcome: Outcome,
    rule: &'static str,
    bug: Option<Bug>,
    runs: usize,
}

impl Smallest {
    /// Accepts a smaller scenario if it violates the same invariant.
    fn take(&mut self, smaller: Scenario) -> bool {
        if self.runs >= MAX_RUNS {
            return false;
        }
        self.runs += 1;
        let outcome = simulate(&smaller, self.bug, false);
        let same = outcome
            .violation
            .as_ref()
            .is_some_and(|violation| violation.rule == self.rule);
        if same {
            (self.scenario, self.outcome) = (smaller, outcome);
        }
        same
    }

    /// Removes faults: half of them, a quarter, and so on down to single faults.
    fn fewer_faults(&mut self) -> bool {
        let mut any = false;
        let mut size = self.scenario.faults().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.scenario.faults() {
                let numbers = self.scenario.numbers().enumerate();
                let kept: Vec<usize> = numbers
                    .filter(|(at, _)| !(from..from + size).contains(at))
                    .map(|(_, number)| number)
                    .collect();
                if self.take(self.scenario.keeping(&kept)) {
                    any = true;
                } else {
                    from += size;
                }
            }
            size /= 2;
        }
        any
    }

    fn fewer_parts(&mut self) -> bool {
        let mut any = false;
        let smaller: [fn(&mut Scenario); 4] = [
            |scenario| scenario.faulty /= 2,
            |scenario| scenario.faulty = scenario.faulty.saturating_sub(Duration::from_secs(1)),
            |scenario| scenario.clients -= 1,
            |scenario| scenario.nodes -= 1,
        ];
        for make_smaller in smaller {
            loop {
                let mut scenario = self.scenario.clone();
                make_smaller(&mut scenario);
                let is_one =
                    scenario.clients > 0 && scenario.nodes > 0 && scenario.faulty >= Duration::from_millis(500);
                if !is_one
                    || scenario.faulty == self.scenario.faulty
                        && scenario.clients == self.scenario.clients
                        && scenario.nodes == self.scenario.nodes
                    || !self.take(scenario)
                {
                    break;
                }
                any = true;
            }
        }
        any
    }
}
