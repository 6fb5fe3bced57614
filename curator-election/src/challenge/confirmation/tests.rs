//! The leader's side, answer by answer.

use super::*;
use crate::challenge::StoredRecord;
use crate::store::LeaseId;

const LIMIT: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(ms))
}

fn own_record() -> ChallengeRecord {
    ChallengeRecord {
        limit: LIMIT,
        process: "ab".into(),
        sequence: 0,
        state: ChallengeState::Clear,
    }
}

fn confirmations() -> Confirmations {
    Confirmations::new(Limit::new(LIMIT), Revision(7), own_record(), at(0))
}

fn found(record: Option<&ChallengeRecord>, mod_revision: i64) -> Standing {
    Standing {
        revision: Revision(20),
        created: Some(Revision(7)),
        record: record.map(|record| StoredRecord {
            value: record.to_string().into(),
            mod_revision: Revision(mod_revision),
        }),
    }
}

fn clear() -> Standing {
    found(Some(&own_record()), 7)
}

fn challenged() -> ChallengeRecord {
    own_record().with_state(ChallengeState::Challenged {
        by: LeaseId::new(0xb).unwrap(),
    })
}

#[test]
fn a_confirmation_counts_from_the_sending_however_late_the_answer() {
    let mut confirmations = confirmations();
    let id = confirmations.read_if_due(at(0), Revision(0)).unwrap();
    assert_eq!(confirmations.deadline(), None);
    assert_eq!(confirmations.read(id, at(800), &clear()), Outcome::Confirmed);
    assert_eq!(confirmations.deadline(), Some(at(900)));
    // The same answer again changes nothing.
    assert_eq!(confirmations.read(id, at(890), &clear()), Outcome::Nothing);
    assert_eq!(confirmations.deadline(), Some(at(900)));
}

#[test]
fn reads_every_quarter_of_the_limit_and_four_at_a_time() {
    let mut confirmations = confirmations();
    let ids: Vec<u64> = [0, 250, 500, 750]
        .map(|ms| {
            assert_eq!(confirmations.next_wakeup(), Some(at(ms)));
            confirmations.read_if_due(at(ms), Revision(0)).unwrap()
        })
        .into();
    assert_eq!(confirmations.read_if_due(at(999), Revision(0)), None);
    // An answer later than the limit confirms nothing, so the oldest read makes room.
    assert_eq!(confirmations.next_wakeup(), Some(at(1_000)));
    assert!(confirmations.read_if_due(at(1_000), Revision(0)).is_some());
    // Answers in reverse order: each counts by its own sending, and none moves the deadline back.
    for id in ids.into_iter().rev() {
        confirmations.read(id, at(1_001), &clear());
        assert_eq!(confirmations.deadline(), Some(at(750) + Duration::from_millis(900)));
    }
}

#[test]
fn a_challenge_is_refuted_and_the_refutation_counts_from_its_sending() {
    let mut confirmations = confirmations();
    let read = confirmations.read_if_due(at(0), Revision(0)).unwrap();
    let Outcome::Refute {
        id,
        cause,
        seen,
        record,
    } = confirmations.read(read, at(100), &found(Some(&challenged()), 21))
    else {
        panic!("not refuted");
    };
    assert_eq!(confirmations.deadline(), None, "a read of a challenge confirms nothing");
    assert_eq!(cause, RefutationCause::Challenged);
    assert_eq!(
        (seen, record.sequence, record.state),
        (Revision(21), 1, ChallengeState::Clear)
    );
    assert_eq!(confirmations.refuted(id, at(300), true), Outcome::Confirmed);
    assert_eq!(confirmations.deadline(), Some(at(100) + Duration::from_millis(900)));
}

#[test]
fn a_refutation_whose_guard_did_not_hold_confirms_nothing_and_is_followed_by_a_read() {
    let mut confirmations = confirmations();
    let read = confirmations.read_if_due(at(0), Revision(0)).unwrap();
    let Outcome::Refute { id, .. } = confirmations.read(read, at(10), &found(Some(&challenged()), 21)) else {
        panic!("not refuted");
    };
    assert_eq!(confirmations.refuted(id, at(20), false), Outcome::Nothing);
    assert_eq!(confirmations.deadline(), None);
    assert_eq!(confirmations.next_wakeup(), Some(at(20)));
}

#[test]
fn a_missing_or_a_foreign_challenge_key_is_put_again() {
    let foreign = ChallengeRecord {
        process: "cd".into(),
        ..own_record()
    };
    let other_limit = ChallengeRecord {
        limit: LIMIT / 2,
        ..own_record()
    };
    for (standing, expected, why) in [
        (found(None, 0), Revision(0), RefutationCause::Missing),
        (found(Some(&foreign), 22), Revision(22), RefutationCause::Foreign),
        (found(Some(&other_limit), 23), Revision(23), RefutationCause::Foreign),
        (
            Standing {
                record: Some(StoredRecord {
                    value: "nonsense".into(),
                    mod_revision: Revision(24),
                }),
                ..clear()
            },
            Revision(24),
            RefutationCause::Foreign,
        ),
    ] {
        let mut confirmations = confirmations();
        let read = confirmations.read_if_due(at(0), Revision(0)).unwrap();
        let outcome = confirmations.read(read, at(1), &standing);
        let Outcome::Refute {
            cause, seen, record, ..
        } = outcome
        else {
            panic!("{outcome:?} for {standing:?}");
        };
        assert_eq!((seen, cause), (expected, why));
        assert_eq!((record.limit, record.process.as_str()), (LIMIT, "ab"));
        assert_eq!(confirmations.deadline(), None);
    }
}

#[test]
fn a_missing_or_a_newer_lock_key_ends_the_term() {
    for created in [None, Some(Revision(8))] {
        let mut confirmations = confirmations();
        let read = confirmations.read_if_due(at(0), Revision(0)).unwrap();
        let standing = Standing { created, ..clear() };
        assert_eq!(confirmations.read(read, at(1), &standing), Outcome::Lost);
    }
}

#[test]
fn an_answer_from_before_what_was_known_at_its_sending_shows_a_restored_store() {
    let mut confirmations = confirmations();
    let read = confirmations.read_if_due(at(0), Revision(30)).unwrap();
    assert_eq!(
        confirmations.read(read, at(1), &clear()),
        Outcome::WentBack {
            seen: Revision(30),
            found: Revision(20)
        }
    );
}

#[test]
fn a_failed_read_is_repeated_soon_and_a_term_without_confirmations_gives_up() {
    let mut confirmations = confirmations();
    let id = confirmations.read_if_due(at(0), Revision(0)).unwrap();
    confirmations.failed(id, at(10));
    assert_eq!(confirmations.next_wakeup(), Some(at(35)));
    assert_eq!(
        confirmations.gives_up_at(),
        None,
        "the lease ends a term that has not begun"
    );
    let id = confirmations.read_if_due(at(35), Revision(0)).unwrap();
    confirmations.read(id, at(40), &clear());
    assert_eq!(confirmations.gives_up_at(), Some(at(935) + Duration::from_secs(10)));
}

/// Otherwise a term would resume and be suspended in the same moment, again and again, or begin suspended.
#[test]
fn an_answer_whose_deadline_has_passed_confirms_nothing() {
    let mut confirmations = confirmations();
    let late = confirmations.read_if_due(at(0), Revision(0)).unwrap();
    let in_time = confirmations.read_if_due(at(250), Revision(0)).unwrap();
    assert_eq!(confirmations.read(late, at(900), &clear()), Outcome::Nothing);
    assert_eq!(confirmations.read(in_time, at(901), &clear()), Outcome::Confirmed);
    assert_eq!(confirmations.deadline(), Some(at(1_150)));
    let read = confirmations.read_if_due(at(1_000), Revision(0)).unwrap();
    let Outcome::Refute { id, .. } = confirmations.read(read, at(1_100), &found(Some(&challenged()), 21)) else {
        panic!("not refuted");
    };
    assert_eq!(confirmations.refuted(id, at(2_000), true), Outcome::Nothing);
}
