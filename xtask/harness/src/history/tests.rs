//! Histories that are known to be possible or not, histories made from an honest register, and a checker that tries all
//! orders.

use proptest::prelude::*;

use super::*;

const BOUND: usize = 100_000;

/// A call from then to then, in milliseconds.
fn call(began: u64, ended: u64, step: Step) -> Call {
    Call {
        id: began,
        began: Duration::from_millis(began),
        ended: Some(Duration::from_millis(ended)),
        step,
    }
}

/// A call that nobody knows the end of.
fn unknown(began: u64, step: Step) -> Call {
    Call {
        ended: None,
        ..call(began, began, step)
    }
}

fn swap(expected: Value, new: Value) -> Step {
    Step::Swap { expected, new }
}

fn possible(calls: &[Call]) -> bool {
    match check(0, calls, BOUND) {
        Verdict::Linearizable { .. } => true,
        Verdict::Violated { .. } => false,
        Verdict::Undecided { states } => panic!("undecided after {states} states: {calls:?}"),
    }
}

use Step::{Differs, Read, Write};

#[test]
fn what_an_honest_register_answers_is_possible() {
    let histories: &[(&str, &[Call])] = &[
        ("nothing", &[]),
        (
            "one after the other",
            &[call(0, 1, Read(0)), call(2, 3, Write(1)), call(4, 5, Read(1))],
        ),
        (
            "a read beside a write sees either",
            &[call(0, 9, Write(1)), call(1, 2, Read(1)), call(3, 4, Read(1))],
        ),
        (
            "or the one before",
            &[call(0, 9, Write(1)), call(1, 2, Read(0)), call(3, 4, Read(1))],
        ),
        (
            "two writes beside each other, in either order",
            &[call(0, 9, Write(1)), call(0, 9, Write(2)), call(10, 11, Read(1))],
        ),
        (
            "replaced",
            &[
                call(0, 1, Write(1)),
                call(2, 3, swap(1, 2)),
                call(4, 5, Differs(1)),
                call(6, 7, Read(2)),
            ],
        ),
        (
            "an unknown write that never was",
            &[unknown(0, Write(1)), call(2, 3, Read(0)), call(4, 5, Read(0))],
        ),
        (
            "an unknown write that shows up late",
            &[
                unknown(0, Write(1)),
                call(2, 3, Read(0)),
                call(4, 5, Write(2)),
                call(6, 7, Read(2)),
                call(8, 9, Read(1)),
            ],
        ),
        (
            "an unknown write that only one who differs has met",
            &[unknown(0, Write(1)), call(2, 3, Differs(0))],
        ),
        (
            "an unknown replacement that took effect",
            &[unknown(0, swap(0, 1)), call(2, 3, Read(1))],
        ),
        ("an unknown read", &[unknown(0, Read(7)), call(2, 3, Read(0))]),
        (
            "the same value written again later than it could be",
            &[
                call(0, 1, Write(1)),
                call(13, 18, Write(1)),
                call(18, 19, Write(2)),
                call(20, 21, Read(1)),
            ],
        ),
        (
            "touching ends may overlap",
            &[call(0, 5, Write(1)), call(5, 9, Read(0))],
        ),
    ];
    for (name, calls) in histories {
        assert!(possible(calls), "{name}");
    }
}

#[test]
fn what_no_honest_register_answers_is_found() {
    let histories: &[(&str, &[Call])] = &[
        ("a lost write", &[call(0, 1, Write(1)), call(2, 3, Read(0))]),
        ("a lost update", &[call(0, 9, swap(0, 1)), call(0, 9, swap(0, 2))]),
        (
            "a stale read",
            &[
                call(0, 1, Write(1)),
                call(2, 3, Write(2)),
                call(4, 5, Read(2)),
                call(6, 7, Read(1)),
            ],
        ),
        (
            "a stale read of what was written meanwhile",
            &[call(0, 9, Write(1)), call(1, 2, Read(1)), call(3, 4, Read(0))],
        ),
        (
            "two leaders that each know their own writes",
            &[
                call(0, 1, Write(1)),
                call(0, 1, Write(2)),
                call(2, 3, Read(1)),
                call(2, 3, Read(2)),
                call(4, 5, Read(1)),
            ],
        ),
        (
            "a call that ran twice",
            &[
                call(0, 1, Write(1)),
                call(2, 3, Write(2)),
                call(4, 5, Read(2)),
                call(6, 7, Read(1)),
            ],
        ),
        (
            "a replacement that ran twice, and told of the second time",
            &[call(0, 1, Differs(0)), call(2, 3, Read(1))],
        ),
        ("a value that nobody wrote", &[call(0, 1, Read(7))]),
        ("a value from the future", &[call(0, 1, Read(1)), call(2, 3, Write(1))]),
        (
            "an unknown write from the future",
            &[call(0, 1, Read(1)), unknown(2, Write(1))],
        ),
        (
            "an unknown write that shows up twice",
            &[
                unknown(0, Write(1)),
                call(2, 3, Read(1)),
                call(4, 5, Write(2)),
                call(6, 7, Read(1)),
            ],
        ),
        ("one who differs alone", &[call(0, 1, Differs(0))]),
        (
            "more who differ than there were writes",
            &[unknown(0, Write(1)), call(1, 2, Differs(0)), call(3, 4, Read(0))],
        ),
        (
            "replaced without the value being there",
            &[call(0, 1, Write(1)), call(2, 3, swap(0, 2))],
        ),
    ];
    for (name, calls) in histories {
        assert!(!possible(calls), "{name}");
        let short = shorten(0, calls, BOUND);
        assert!(!possible(&short), "{name}: {short:?}");
    }
}

#[test]
fn the_bound_is_told() {
    // Many writes beside each other, and reads that cannot all be.
    let mut calls: Vec<Call> = (1..=12).map(|value| call(0, 100, Write(value))).collect();
    calls.extend((1..=12).map(|value| call(200 + value, 200 + value, Read(value))));
    assert!(matches!(check(0, &calls, 50), Verdict::Undecided { states: 50 }));
    assert!(matches!(check(0, &calls, BOUND), Verdict::Violated { .. }));
}

#[test]
fn a_long_history_takes_as_many_steps_as_it_has_calls() {
    let mut calls = Vec::new();
    for number in 0..20_000 {
        let (began, value) = (number * 10, number + 1);
        // Many never come back; some of these are seen later on.
        if number % 7 == 0 {
            calls.push(unknown(began, Write(value)));
            if number % 14 == 0 {
                calls.push(call(began + 1, began + 5, Read(value)));
            }
        } else {
            calls.push(call(began, began + 15, Write(value)));
            calls.push(call(
                began + 16,
                began + 17,
                Read(if number % 7 == 6 { value } else { value + 1 }),
            ));
        }
    }
    calls.retain(|call| !matches!(call.step, Read(_)) || call.id % 140 == 1);
    let Verdict::Linearizable { states } = check(0, &calls, 200_000) else {
        panic!("it is possible");
    };
    assert!(states < 60_000, "{states}");

    // One lost write among them, and what is left of twenty thousand calls.
    calls.push(call(300_001, 300_002, Write(1_000_000)));
    calls.push(call(300_003, 300_004, Read(1_000_000)));
    calls.push(call(300_005, 300_006, Read(15_001)));
    let short = shorten(0, &calls, 200_000);
    assert!(short.len() <= 4, "{short:?}");
    assert!(!possible(&short));
}

/// Tries all orders, and all ways in which unknown calls may have ended.
fn possible_by_trial(value: Value, left: &[Call]) -> bool {
    let known: Vec<_> = left.iter().filter_map(|call| call.ended).collect();
    let Some(first_end) = known.iter().min() else {
        return true;
    };
    (0..left.len()).any(|at| {
        let next = left[at];
        if next.began > *first_end {
            return false;
        }
        let Some(after) = next.step.apply(value) else {
            return false;
        };
        let mut rest = left.to_vec();
        rest.remove(at);
        possible_by_trial(after, &rest)
    })
}

fn any_step(values: Value) -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..values).prop_map(Read),
        3 => (1..values).prop_map(Write),
        2 => (0..values, 1..values).prop_map(|(expected, new)| Step::Swap { expected, new }),
        1 => (0..values).prop_map(Differs),
    ]
}

fn any_call(values: Value) -> impl Strategy<Value = Call> {
    (0..30_u64, 0..8_u64, any_step(values), prop::bool::weighted(0.25)).prop_map(|(began, took, step, lost)| Call {
        ended: (!lost).then_some(Duration::from_millis(began + took)),
        ..call(began, began, step)
    })
}

/// What an honest register does: each step at its own moment, and how long before and after that its call began and
/// ended, and whether the caller was told.
fn honest() -> impl Strategy<Value = Vec<Call>> {
    let one = (0..4_u8, 0..6_u64, 0..40_u64, 0..40_u64, 0..10_u8);
    prop::collection::vec(one, 0..120).prop_map(|steps| {
        let mut value = 0;
        let mut calls = Vec::new();
        for (number, (kind, wanted, before, after, told)) in steps.into_iter().enumerate() {
            let at = 100 + 10 * number as u64;
            let own = 1_000 + number as u64;
            // Some write what others write as well.
            let new = if wanted == 0 { own } else { wanted };
            let step = match kind {
                0 => Read(value),
                1 => Write(new),
                2 => Step::Swap { expected: value, new },
                _ if wanted == value => continue,
                _ => Differs(wanted),
            };
            // The tenth never took effect, and nobody was told.
            if told != 9 {
                value = step.apply(value).unwrap_or(value);
            }
            calls.push(Call {
                id: number as u64,
                ended: (told < 8).then_some(Duration::from_millis(at + after)),
                ..call(at - before, at, step)
            });
        }
        calls
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_the_trial_of_all_orders(
        calls in prop_oneof![prop::collection::vec(any_call(4), 0..7), prop::collection::vec(any_call(12), 0..7)]
    ) {
        prop_assert_eq!(possible(&calls), possible_by_trial(0, &calls));
    }

    #[test]
    fn what_is_shortened_shows_the_same(calls in prop::collection::vec(any_call(5), 0..8)) {
        let short = shorten(0, &calls, BOUND);
        prop_assert_eq!(possible(&short), possible(&calls));
        prop_assert!(short.len() <= calls.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn what_an_honest_register_does_is_always_possible(calls in honest()) {
        let verdict = check(0, &calls, BOUND);
        prop_assert!(!matches!(verdict, Verdict::Violated { .. }), "{:?}", verdict);
    }
}
