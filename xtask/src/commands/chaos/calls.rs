//! What the load told of its calls, and what is wrong with it.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use curator_harness::history::rules::{Answer, each_ran_once, terms_only_go_up};
use curator_harness::history::{Call, Step, Verdict, check, shorten};
use curator_harness::timeline::{Second, code_name};
use serde::Deserialize;

use super::cast::TTL;
use super::past::{self, Restore};

/// How many states the check of one object may go through.
const BOUND: usize = 3_000_000;
/// The same when what was found is made short: each of many attempts is small.
const BOUND_SHORT: usize = 200_000;
/// How long after its lease's end an answer of a term may still be on its way.
const LATE: Duration = Duration::from_secs(1);
/// As many findings of one kind are told.
const MOST: usize = 5;
/// The calls that the leaders themselves record.
const ECHO: &str = "echo";

/// A call that has ended, as the load tells of it. Times are nanoseconds of the clock that all processes share.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Told {
    pub(super) id: u64,
    pub(crate) via: usize,
    object: String,
    op: String,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    code: u32,
    #[serde(default)]
    why: String,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    expected: u64,
    seen: Option<u64>,
    term: Option<i64>,
    #[serde(default)]
    differs: bool,
}

impl Told {
    /// Whether somebody who serves has answered it.
    pub(crate) fn is_answered(&self) -> bool {
        self.code == 0 || self.differs
    }

    /// What it was and why it failed, in a line.
    pub(crate) fn account(&self) -> String {
        let (op, via, code, why) = (&self.op, self.via, self.code, &self.why);
        format!("{op} through {via}: code {code}, {why}")
    }

    /// Whether it is of the service, and not of `embed-server` alone.
    pub(crate) fn is_management(&self) -> bool {
        self.object != ECHO
    }

    /// Why it was not answered, in a word.
    fn failure(&self) -> String {
        // The instance was not there, or went away: nobody but our own side of the connection says so.
        match self.why.as_str() {
            "transport error" => "no connection".to_owned(),
            _ => code_name(self.code),
        }
    }

    fn since(&self, origin: u64, at: u64) -> Duration {
        Duration::from_nanos(at.saturating_sub(origin))
    }

    /// What the history of its object holds of it.
    fn call(&self, origin: u64) -> Option<Call> {
        let sure = self.is_answered();
        let step = match self.op.as_str() {
            "read" => Step::Read(self.seen.filter(|_| sure)?),
            "write" => Step::Write(self.value),
            "swap" if self.differs => Step::Differs(self.expected),
            "swap" => Step::Swap {
                expected: self.expected,
                new: self.value,
            },
            _ => return None,
        };
        Some(Call {
            id: self.id,
            began: self.since(origin, self.began),
            ended: sure.then(|| self.since(origin, self.ended)),
            step,
        })
    }

    fn answer(&self, origin: u64) -> Option<Answer> {
        Some(Answer {
            id: self.id,
            began: self.since(origin, self.began),
            ended: self.since(origin, self.ended),
            term: self.term?,
        })
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is broken, each with what shows it.
    pub(super) wrong: Vec<String>,
    /// What was looked at.
    pub(super) summary: Vec<String>,
}

/// Looks at all calls, and at what the leaders say that they ran.
pub(super) fn judge(told: &[Told], runs: &[(u64, i64)], origin: u64, restores: &[Restore]) -> Findings {
    let mut findings = Findings::default();
    let answers: Vec<Answer> = told.iter().filter_map(|told| told.answer(origin)).collect();
    let mut broken = each_ran_once(runs, &answers);
    for past in past::answers(&answers, restores, TTL + LATE) {
        broken.extend(terms_only_go_up(&past));
    }
    findings.wrong.extend(broken.iter().take(MOST).map(ToString::to_string));
    if broken.len() > MOST {
        findings
            .wrong
            .push(format!("and {} more of that kind", broken.len() - MOST));
    }
    findings.summary.push(format!(
        "{} calls with a term, {} run by leaders: none twice, and terms that only go up",
        answers.len(),
        runs.len()
    ));
    // What an instance may say when it cannot answer, and what a connection that breaks looks like from here.
    for told in told
        .iter()
        .filter(|told| !told.is_answered() && !matches!(told.code, 1 | 2 | 4 | 13 | 14))
        .take(MOST)
    {
        findings.wrong.push(format!(
            "call {} ({} {}) ended with {}: {}",
            told.id,
            told.op,
            told.object,
            code_name(told.code),
            told.why
        ));
    }
    let mut objects: BTreeMap<&str, Vec<Call>> = BTreeMap::new();
    for told in told.iter().filter(|told| told.object != ECHO) {
        objects.entry(&told.object).or_default().extend(told.call(origin));
    }
    let (mut calls_checked, mut most, mut unknown) = (0, 0, 0);
    let pasts = objects.iter().flat_map(|(object, calls)| {
        let pasts = past::histories(calls, restores);
        pasts.into_iter().map(move |past| (object, past))
    });
    for (object, calls) in pasts {
        let calls = &calls;
        calls_checked += calls.len();
        unknown += calls.iter().filter(|call| call.ended.is_none()).count();
        match check(0, calls, BOUND) {
            Verdict::Linearizable { states } => most = most.max(states),
            Verdict::Undecided { states } => findings.wrong.push(format!(
                "UNDECIDED: {object} with {} calls: no answer after {states} states",
                calls.len()
            )),
            Verdict::Violated { .. } => {
                let mut text = format!("{object} is not linearizable; these calls of it have no order:\n");
                for call in shorten(0, calls, BOUND_SHORT) {
                    let via = told.iter().find(|told| told.id == call.id).map_or(0, |told| told.via);
                    let _ = writeln!(text, "  {call} through curator-{}", via + 1);
                }
                findings.wrong.push(text);
            }
        }
    }
    findings.summary.push(format!(
        "{calls_checked} reads and writes of {} objects checked, {unknown} of them of unknown outcome; at most {most} states for one",
        objects.len()
    ));
    findings
}

/// The calls by the second in which they ended.
pub(super) fn by_second(told: &[Told], origin: u64, length: Duration) -> Vec<Second> {
    let seconds = usize::try_from(length.as_millis().div_ceil(1_000)).unwrap_or(0);
    let mut calls: Vec<Vec<Result<u64, String>>> = vec![Vec::new(); seconds];
    for told in told {
        let at = usize::try_from(told.since(origin, told.ended).as_secs()).unwrap_or(usize::MAX);
        if let Some(second) = calls.get_mut(at) {
            second.push(if told.is_answered() {
                Ok((told.ended - told.began) / 1_000)
            } else {
                Err(told.failure())
            });
        }
    }
    calls.iter().map(|calls| Second::of(calls)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(id: u64, op: &str, began: u64, more: serde_json::Value) -> Told {
        let mut line = json!({
            "id": id, "via": 0, "object": "label 0.0", "op": op, "began": began * 1_000_000, "ended": (began + 5) * 1_000_000, "code": 0,
        });
        for (name, value) in more.as_object().unwrap() {
            line[name] = value.clone();
        }
        serde_json::from_value(line).unwrap()
    }

    fn wrong(told: &[Told]) -> Vec<String> {
        judge(told, &[], 0, &[]).wrong
    }

    #[test]
    fn what_was_not_answered_may_or_may_not_have_been() {
        let lost = told(1, "write", 0, json!({ "value": 1, "code": 14 }));
        let read = |seen: u64, began: u64| told(10 + began, "read", began, json!({ "seen": seen }));
        assert_eq!(wrong(&[lost.clone(), read(0, 10), read(1, 20)]), [""; 0]);
        let both = wrong(&[lost, read(1, 10), read(0, 20)]);
        assert!(
            both[0].contains("not linearizable") && both[0].contains("call     30 reads 0"),
            "{both:?}"
        );
        let acknowledged = told(1, "write", 0, json!({ "value": 1 }));
        assert_eq!(wrong(&[acknowledged, read(0, 10)]).len(), 1);
    }

    #[test]
    fn a_replacement_that_was_refused_did_not_run() {
        let refused = told(
            1,
            "swap",
            0,
            json!({ "expected": 0, "value": 1, "code": 9, "differs": true }),
        );
        assert_eq!(wrong(std::slice::from_ref(&refused)).len(), 1, "it is 0");
        let other = told(2, "write", 1, json!({ "value": 2, "code": 4 }));
        assert_eq!(wrong(&[refused.clone(), other.clone()]), [""; 0]);
        let read = told(3, "read", 20, json!({ "seen": 1 }));
        assert_eq!(wrong(&[refused, other, read]).len(), 1, "nobody wrote 1");
    }

    #[test]
    fn only_honest_refusals_are_taken() {
        assert_eq!(wrong(&[told(1, "read", 0, json!({ "code": 14 }))]), [""; 0]);
        let lost = wrong(&[told(1, "read", 0, json!({ "code": 5, "why": "no such node" }))]);
        assert!(lost[0].contains("NOT_FOUND: no such node"), "{lost:?}");
    }

    #[test]
    fn echoes_are_held_against_what_the_leaders_ran() {
        let echo = |id: u64, began: u64, term: i64| told(id, "say", began, json!({ "object": "echo", "term": term }));
        let calls = [echo(1, 0, 5), echo(2, 10, 9), echo(3, 20, 5)];
        let found = judge(&calls, &[(1, 5), (2, 9), (3, 5), (3, 5)], 0, &[]).wrong;
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn seconds_count_what_ended_in_them() {
        let calls = [
            told(1, "read", 0, json!({ "seen": 0 })),
            told(2, "read", 997, json!({ "code": 14 })),
        ];
        let seconds = by_second(&calls, 0, Duration::from_millis(1_500));
        assert_eq!((seconds[0].answered, seconds[0].p50), (1, 5_000));
        assert_eq!(seconds[1].failed, BTreeMap::from([("UNAVAILABLE".to_owned(), 1)]));
    }
}
