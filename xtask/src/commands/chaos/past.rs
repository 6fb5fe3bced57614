//! What a restore of etcd from an older backup may lose, and what it may not.
//!
//! A restore makes two pasts of one: that which was until the restore, and that which is from then on, in which nothing
//! has happened between the backup and the restore. Each of them must be what one honest service can have answered.
use std::time::Duration;

use curator_harness::history::rules::Answer;
use curator_harness::history::{Call, Step};

/// A span of the run, by the clock that the calls are told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct During {
    pub(super) from: Duration,
    pub(super) to: Duration,
}

impl During {
    fn before(self, began: Duration) -> bool {
        self.to <= began
    }

    fn after(self, ended: Duration) -> bool {
        ended <= self.from
    }
}

/// A backup, and its restore. No member of etcd runs during either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Restore {
    pub(super) taken: During,
    pub(super) put_back: During,
}

/// Where a call stands in a past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In it, as it was answered.
    In,
    /// In it or not: nobody can know.
    Perhaps,
    /// Not in it.
    Out,
}

/// `until` ends this past, if anything does; `restores` are those before it.
fn place(began: Duration, ended: Option<Duration>, restores: &[Restore], until: Option<During>) -> Place {
    let over = |during: During| ended.is_some_and(|ended| during.after(ended));
    let mut place = Place::In;
    if let Some(until) = until {
        if until.from <= began {
            return Place::Out;
        }
        if !over(until) {
            place = Place::Perhaps;
        }
    }
    for restore in restores {
        if restore.put_back.before(began) || over(restore.taken) {
            continue;
        }
        // Its outcome was forgotten, unless it reached beyond what was forgotten.
        if restore.taken.before(began) && over(restore.put_back) {
            return Place::Out;
        }
        place = Place::Perhaps;
    }
    place
}

/// Each past that there was: those that a restore ended, in the order of time, and the one that is left.
fn pasts(restores: &[Restore]) -> impl Iterator<Item = (&[Restore], Option<During>)> {
    (0..=restores.len()).map(|count| (&restores[..count], restores.get(count).map(|next| next.put_back)))
}

/// The calls of each past. What a call has seen that may belong to either counts for neither; what it may have done,
/// for both.
pub(super) fn histories(calls: &[Call], restores: &[Restore]) -> Vec<Vec<Call>> {
    let of = |(before, until): (&[Restore], Option<During>)| {
        let placed = |call: &Call| match place(call.began, call.ended, before, until) {
            Place::In => Some(*call),
            Place::Perhaps if matches!(call.step, Step::Write(_) | Step::Swap { .. }) => {
                Some(Call { ended: None, ..*call })
            }
            Place::Perhaps | Place::Out => None,
        };
        calls.iter().filter_map(placed).collect()
    };
    pasts(restores).map(of).collect()
}

/// The answers of each past whose terms are of it for sure. A leader from before a restore may answer what needs no
/// state for `lease` more, until it finds that its key is gone.
pub(super) fn answers(answers: &[Answer], restores: &[Restore], lease: Duration) -> Vec<Vec<Answer>> {
    let lasting = |restore: &Restore| {
        let put_back = During {
            to: restore.put_back.to + lease,
            ..restore.put_back
        };
        Restore { put_back, ..*restore }
    };
    let restores: Vec<_> = restores.iter().map(lasting).collect();
    let of = |(before, until): (&[Restore], Option<During>)| {
        let sure = |answer: &&Answer| place(answer.began, Some(answer.ended), before, until) == Place::In;
        answers.iter().filter(sure).copied().collect()
    };
    pasts(&restores).map(of).collect()
}

#[cfg(test)]
mod tests {
    use curator_harness::history::{Verdict, check};

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const RESTORE: Restore = Restore {
        taken: During {
            from: ms(100),
            to: ms(110),
        },
        put_back: During {
            from: ms(200),
            to: ms(210),
        },
    };

    fn call(id: u64, began: u64, step: Step) -> Call {
        Call {
            id,
            began: ms(began),
            ended: Some(ms(began + 5)),
            step,
        }
    }

    fn holds(calls: &[Call]) -> Vec<bool> {
        let good = |calls: &Vec<Call>| matches!(check(0, calls, 1_000), Verdict::Linearizable { .. });
        histories(calls, &[RESTORE]).iter().map(good).collect()
    }

    #[test]
    fn what_came_after_the_backup_is_lost_and_nothing_else() {
        let before = [
            call(1, 0, Step::Write(1)),
            call(2, 120, Step::Write(2)),
            call(3, 190, Step::Read(2)),
        ];
        let with = |step: Step| holds(&[&before[..], &[call(4, 220, step)]].concat());
        assert_eq!(with(Step::Read(1)), [true, true]);
        assert_eq!(with(Step::Read(2)), [true, false], "it is lost");
        assert_eq!(with(Step::Read(0)), [true, false], "it was in the backup");
        // What was read before the restore is of what was written before it.
        let stale = [
            call(1, 0, Step::Write(1)),
            call(2, 120, Step::Write(2)),
            call(3, 190, Step::Read(1)),
        ];
        assert_eq!(holds(&stale), [false, true]);
    }

    #[test]
    fn what_was_under_way_may_be_in_either() {
        for (began, seen) in [(98, 0), (98, 7), (108, 0), (108, 7), (198, 0), (198, 7)] {
            let calls = [call(1, began, Step::Write(7)), call(2, 220, Step::Read(seen))];
            assert_eq!(holds(&calls), [true, true], "{began} {seen}");
        }
        // One that nobody answered may come late.
        let mut lost = call(1, 150, Step::Write(7));
        lost.ended = None;
        for seen in [0, 7] {
            assert_eq!(holds(&[lost, call(2, 300, Step::Read(seen))]), [true, true]);
        }
        // What it has seen may be of either.
        assert_eq!(
            holds(&[call(1, 120, Step::Write(2)), call(2, 198, Step::Read(0))]),
            [true, true]
        );
    }

    #[test]
    fn two_restores_leave_what_neither_lost() {
        let again = Restore {
            taken: During {
                from: ms(300),
                to: ms(310),
            },
            put_back: During {
                from: ms(400),
                to: ms(410),
            },
        };
        let calls: Vec<_> = [(1, 0), (2, 150), (3, 250), (4, 350), (5, 450)]
            .map(|(id, began)| call(id, began, Step::Write(id)))
            .into();
        let ids = |calls: &Vec<Call>| calls.iter().map(|call| call.id).collect::<Vec<_>>();
        let pasts: Vec<_> = histories(&calls, &[RESTORE, again]).iter().map(ids).collect();
        assert_eq!(pasts, [vec![1, 2], vec![1, 3, 4], vec![1, 3, 5]]);
    }

    #[test]
    fn a_term_counts_once_its_lease_would_have_ended() {
        let answer = |id: u64, began: u64| Answer {
            id,
            began: ms(began),
            ended: ms(began + 5),
            term: 5,
        };
        let all = [answer(1, 0), answer(2, 150), answer(3, 250), answer(4, 320)];
        let ids = |answers: &Vec<Answer>| answers.iter().map(|answer| answer.id).collect::<Vec<_>>();
        let pasts: Vec<_> = answers(&all, &[RESTORE], ms(100)).iter().map(ids).collect();
        assert_eq!(pasts, [vec![1, 2], vec![1, 4]]);
    }
}
