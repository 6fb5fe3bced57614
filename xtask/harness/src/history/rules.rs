//! What must hold of calls and can be seen without a search.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// A call that was answered in a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The call's number.
    pub id: u64,
    /// When it was sent.
    pub began: Duration,
    /// When the answer was there.
    pub ended: Duration,
    /// The term that answered, as the revision of its lock key.
    pub term: i64,
}

/// A rule that was broken, and by which calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A leader ran one call twice, or two leaders did.
    RanTwice {
        /// The call.
        id: u64,
        /// The terms that it ran in.
        terms: Vec<i64>,
    },
    /// A call was answered that the leader of that term never ran.
    NotRun {
        /// What the caller got.
        answer: Answer,
        /// The terms that it did run in.
        terms: Vec<i64>,
    },
    /// A call began after a later term had answered, and an earlier one answered it.
    EndedTerm {
        /// The answer of the earlier term.
        answer: Answer,
        /// One of the later term that had been there by then.
        before: Answer,
    },
    /// A call took longer than it was given.
    Outlasted {
        /// The call.
        id: u64,
        /// How long it took.
        took: Duration,
        /// How long it may take.
        limit: Duration,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RanTwice { id, terms } => write!(f, "call {id} ran more than once, in the terms {terms:?}"),
            Self::NotRun { answer, terms } => write!(
                f,
                "call {} was answered in term {}, and ran in {terms:?}",
                answer.id, answer.term
            ),
            Self::EndedTerm { answer, before } => write!(
                f,
                "call {} began at {:.4} s and was answered in term {}, after call {} had been answered in term {} at {:.4} s",
                answer.id,
                answer.began.as_secs_f64(),
                answer.term,
                before.id,
                before.term,
                before.ended.as_secs_f64()
            ),
            Self::Outlasted { id, took, limit } => {
                write!(f, "call {id} took {took:?}, and had to end within {limit:?}")
            }
        }
    }
}

/// No call runs twice, and each that is answered ran in the term that it was answered in. `runs` are the calls that
/// leaders ran, with their terms, as the leaders themselves recorded them.
pub fn each_ran_once(runs: &[(u64, i64)], answers: &[Answer]) -> Vec<Broken> {
    let mut ran: HashMap<u64, Vec<i64>> = HashMap::new();
    for (id, term) in runs {
        ran.entry(*id).or_default().push(*term);
    }
    let mut broken: Vec<Broken> = ran
        .iter()
        .filter(|(_, terms)| terms.len() > 1)
        .map(|(id, terms)| Broken::RanTwice {
            id: *id,
            terms: terms.clone(),
        })
        .collect();
    broken.extend(answers.iter().filter_map(|answer| {
        let terms = ran.get(&answer.id).cloned().unwrap_or_default();
        (!terms.contains(&answer.term)).then_some(Broken::NotRun { answer: *answer, terms })
    }));
    broken.sort_by_key(|broken| match broken {
        Broken::RanTwice { id, .. } | Broken::Outlasted { id, .. } => *id,
        Broken::NotRun { answer, .. } | Broken::EndedTerm { answer, .. } => answer.id,
    });
    broken
}

/// In the order of time terms only go up: no call is answered in a term after a later one had answered before it began.
pub fn terms_only_go_up(answers: &[Answer]) -> Vec<Broken> {
    let mut by_end = answers.to_vec();
    by_end.sort_by_key(|answer| (answer.ended, answer.term));
    // By when, and which answer of the latest term was there by then.
    let mut newest: Vec<(Duration, Answer)> = Vec::with_capacity(by_end.len());
    for answer in by_end {
        let best = match newest.last() {
            Some((_, best)) if best.term >= answer.term => *best,
            _ => answer,
        };
        newest.push((answer.ended, best));
    }
    answers
        .iter()
        .filter_map(|answer| {
            let until = newest.partition_point(|(ended, _)| *ended < answer.began);
            let (_, before) = newest.get(until.checked_sub(1)?)?;
            (before.term > answer.term).then_some(Broken::EndedTerm {
                answer: *answer,
                before: *before,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u64, began: u64, ended: u64, term: i64) -> Answer {
        Answer {
            id,
            began: Duration::from_millis(began),
            ended: Duration::from_millis(ended),
            term,
        }
    }

    #[test]
    fn a_call_that_ran_twice_or_in_another_term_is_found() {
        let answers = [answer(1, 0, 1, 5), answer(2, 0, 1, 5), answer(4, 0, 1, 5)];
        assert_eq!(each_ran_once(&[(1, 5), (2, 5), (3, 7), (4, 5)], &answers), []);
        assert_eq!(
            each_ran_once(&[(1, 5), (2, 4), (3, 5), (3, 7)], &answers),
            [
                Broken::NotRun {
                    answer: answers[1],
                    terms: vec![4]
                },
                Broken::RanTwice {
                    id: 3,
                    terms: vec![5, 7]
                },
                Broken::NotRun {
                    answer: answers[2],
                    terms: Vec::new()
                },
            ]
        );
    }

    #[test]
    fn an_answer_of_an_ended_term_is_found() {
        // Calls that overlap may be answered in any order.
        let good = [
            answer(1, 0, 10, 5),
            answer(2, 2, 8, 9),
            answer(3, 8, 12, 5),
            answer(4, 13, 20, 9),
        ];
        assert_eq!(terms_only_go_up(&good), []);
        let late = answer(5, 21, 30, 5);
        let found = terms_only_go_up(&[&good[..], &[late]].concat());
        assert_eq!(
            found,
            [Broken::EndedTerm {
                answer: late,
                before: good[1]
            }]
        );
        assert!(found[0].to_string().contains("in term 9 at 0.0080 s"), "{}", found[0]);
    }
}
