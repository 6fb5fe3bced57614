//! The candidate's side, step by step.

use super::*;
use crate::challenge::StoredRecord;

const LIMIT: Duration = Duration::from_secs(1);
const LEADER: i64 = 7;

fn at(ms: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(ms))
}

fn lease(id: i64) -> LeaseId {
    LeaseId::new(id).unwrap()
}

fn target() -> Target {
    Target {
        key: "/leader/a".into(),
        created: Revision(LEADER),
        lease: Some(lease(0xa)),
    }
}

fn place(behind: u32) -> Place {
    Place {
        behind,
        key: "/leader/b".into(),
        created: Revision(9),
    }
}

/// A candidate at this place, behind a leader with the default limit.
fn queued(behind: u32) -> Challenger {
    let mut challenger = Challenger::new(lease(0xb), Limit::new(LIMIT));
    challenger.observed(at(0), Some(target()));
    challenger.placed(Some(place(behind)));
    challenger
}

fn record(state: ChallengeState) -> ChallengeRecord {
    ChallengeRecord {
        limit: LIMIT,
        process: "a".into(),
        sequence: 0,
        state,
    }
}

fn standing(record: Option<&ChallengeRecord>, mod_revision: i64) -> Standing {
    Standing {
        revision: Revision(50),
        created: Some(Revision(LEADER)),
        record: record.map(|record| StoredRecord {
            value: record.to_string().into(),
            mod_revision: Revision(mod_revision),
        }),
    }
}

fn clear() -> Standing {
    standing(Some(&record(ChallengeState::Clear)), LEADER)
}

fn challenged_by(by: i64, mod_revision: i64) -> Standing {
    let state = ChallengeState::Challenged { by: lease(by) };
    standing(Some(&record(state)), mod_revision)
}

fn reads(steps: &[Step]) -> u64 {
    let [Step::Read { id, .. }] = steps else {
        panic!("{steps:?}");
    };
    *id
}

/// Suspects the leader at `now`, and has put the challenge at revision 51.
fn challenging(now: Instant) -> Challenger {
    let mut challenger = queued(1);
    challenger.suspect(now, Revision(LEADER));
    let id = reads(&challenger.due(now));
    let (_, step) = challenger.read(id, now, Some(&clear()));
    let Some(Step::Challenge {
        id, seen, record, own, ..
    }) = step
    else {
        panic!("{step:?}");
    };
    assert_eq!((seen, own), (Revision(LEADER), place(1)));
    assert_eq!(record.state, ChallengeState::Challenged { by: lease(0xb) });
    assert_eq!(
        challenger.challenged(id, now, Ok(Some(Revision(51)))),
        Some(Found::Challenged)
    );
    challenger
}

/// Answers each poll at once while `answers` holds; returns when the first deposing transaction is due.
fn deposes_at(challenger: &mut Challenger, until: u64, answers: impl Fn(u64) -> bool) -> Option<u64> {
    for ms in 0..until {
        for step in challenger.due(at(ms)) {
            let Step::Read { id, .. } = step else {
                continue;
            };
            let answer = challenged_by(0xb, 51);
            let (found, step) = challenger.read(id, at(ms), answers(ms).then_some(&answer));
            assert_eq!(found, None);
            if let Some(Step::Depose { seen, .. }) = step {
                assert_eq!(seen, Revision(51));
                return Some(ms);
            }
        }
    }
    None
}

#[test]
fn who_does_not_refute_within_the_limit_and_the_margin_is_deposed() {
    let mut challenger = challenging(at(0));
    let deposed = deposes_at(&mut challenger, 5_000, |_| true).unwrap();
    assert!((1_101..1_110).contains(&deposed), "{deposed}");
}

#[test]
fn the_time_in_which_the_store_does_not_answer_does_not_count() {
    let mut challenger = challenging(at(0));
    let deposed = deposes_at(&mut challenger, 20_000, |ms| !(300..5_300).contains(&ms)).unwrap();
    // The 300 ms before, and the rest of the wait after the outage.
    assert!((6_000..6_500).contains(&deposed), "{deposed}");
}

#[test]
fn the_limit_of_the_accused_counts() {
    let mut challenger = queued(1);
    challenger.suspect(at(0), Revision(LEADER));
    let id = reads(&challenger.due(at(0)));
    let slow = ChallengeRecord {
        limit: Duration::from_secs(4),
        ..record(ChallengeState::Challenged { by: lease(0xc) })
    };
    // Another candidate has challenged it: its challenge is adopted, and counts from now.
    let found = standing(Some(&slow), 51);
    assert_eq!(challenger.read(id, at(10), Some(&found)), (None, None));
    let mut deposed = None;
    for ms in 10..9_000 {
        for step in challenger.due(at(ms)) {
            let Step::Read { id, .. } = step else { continue };
            if let (_, Some(Step::Depose { .. })) = challenger.read(id, at(ms), Some(&found)) {
                deposed.get_or_insert(ms);
            }
        }
    }
    let deposed = deposed.unwrap();
    assert!((4_411..4_500).contains(&deposed), "{deposed}");
}

#[test]
fn a_refuted_challenge_is_forgotten_and_the_leader_trusted_for_longer_each_time() {
    let mut challenger = challenging(at(0));
    let mut now = 0;
    for trust in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        let id = reads(&challenger.due(at(now)));
        let (found, step) = challenger.read(id, at(now), Some(&clear()));
        assert_eq!((found, step), (Some(Found::Refuted), None));
        challenger.suspect(at(now + trust - 1), Revision(LEADER));
        assert!(
            !challenger
                .due(at(now + trust - 1))
                .iter()
                .any(|step| matches!(step, Step::Challenge { .. }))
        );
        assert!(matches!(challenger.target.as_ref().unwrap().stage, Stage::Idle));
        now += trust;
        challenger.suspect(at(now), Revision(LEADER));
        let Stage::Suspecting { .. } = challenger.target.as_ref().unwrap().stage else {
            panic!("trusted for too long");
        };
        // An adopted challenge is refuted too.
        let step = challenger.due(at(now));
        let id = reads(&step);
        challenger.read(id, at(now), Some(&challenged_by(0xc, 60)));
    }
}

#[test]
fn a_late_refutation_counts_until_the_deposing_transaction() {
    let mut challenger = challenging(at(0));
    assert!(deposes_at(&mut challenger, 5_000, |_| true).is_some());
    let Stage::Waiting(wait) = &challenger.target.as_ref().unwrap().stage else {
        panic!("not waiting");
    };
    let id = wait.deposing.unwrap();
    challenger.deposed(id, at(1_150), Ok(false));
    // The own place is read again, since the own key may be the reason; the next poll shows the refutation.
    let id = reads(&challenger.due(at(1_250)));
    assert_eq!(challenger.read(id, at(1_251), Some(&clear())).0, Some(Found::Refuted));
}

#[test]
fn a_deposing_transaction_without_an_answer_is_repeated() {
    let mut challenger = challenging(at(0));
    let first = deposes_at(&mut challenger, 5_000, |_| true).unwrap();
    let Stage::Waiting(wait) = &challenger.target.as_ref().unwrap().stage else {
        panic!("not waiting");
    };
    let id = wait.deposing.unwrap();
    challenger.deposed(id, at(first + 100), Err(()));
    let again = reads(&challenger.due(at(first + 150)));
    let (_, step) = challenger.read(again, at(first + 150), Some(&challenged_by(0xb, 51)));
    let Some(Step::Depose { id, .. }) = step else {
        panic!("{step:?}")
    };
    challenger.deposed(id, at(first + 160), Ok(true));
    assert!(matches!(challenger.target.as_ref().unwrap().stage, Stage::Idle));
}

#[test]
fn a_challenge_without_an_answer_is_found_and_adopted() {
    let mut challenger = queued(1);
    challenger.suspect(at(0), Revision(LEADER));
    let id = reads(&challenger.due(at(0)));
    let (_, Some(Step::Challenge { id, .. })) = challenger.read(id, at(0), Some(&clear())) else {
        panic!("no challenge");
    };
    assert_eq!(challenger.challenged(id, at(2_000), Err(())), None);
    let id = reads(&challenger.due(at(2_050)));
    assert_eq!(
        challenger.read(id, at(2_060), Some(&challenged_by(0xb, 51))),
        (None, None)
    );
    // The wait counts from the receipt of that read.
    let Stage::Waiting(wait) = &challenger.target.as_ref().unwrap().stage else {
        panic!("not adopted");
    };
    assert_eq!((wait.since, wait.seen), (at(2_060), Revision(51)));
}

#[test]
fn who_cannot_be_challenged_is_left_alone() {
    let mut challenger = queued(1);
    challenger.suspect(at(0), Revision(LEADER));
    let id = reads(&challenger.due(at(0)));
    assert_eq!(challenger.read(id, at(1), Some(&standing(None, 0))), (None, None));
    challenger.suspect(at(2), Revision(LEADER));
    assert!(matches!(challenger.target.as_ref().unwrap().stage, Stage::Idle));
}

#[test]
fn candidates_further_back_challenge_later_and_only_those_with_a_place() {
    for (behind, ms) in [(1, 0), (2, 150), (3, 300)] {
        let mut challenger = queued(behind);
        challenger.suspect(at(0), Revision(LEADER));
        assert_eq!(challenger.next_wakeup(), Some(at(ms)));
    }
    let mut unplaced = queued(1);
    unplaced.placed(None);
    unplaced.suspect(at(0), Revision(LEADER));
    let due: Vec<_> = (0..1_000).flat_map(|ms| unplaced.due(at(ms))).collect();
    assert!(
        !due.is_empty() && due.iter().all(|step| *step == Step::FindPlace),
        "{due:?}"
    );
}

#[test]
fn a_suspicion_of_another_term_is_ignored() {
    let mut challenger = queued(1);
    challenger.suspect(at(0), Revision(LEADER - 1));
    assert!(matches!(challenger.target.as_ref().unwrap().stage, Stage::Idle));
}

#[test]
fn a_lease_that_was_not_renewed_for_a_second_is_suspicious() {
    for (granted, remaining, limit_ms, silent) in [
        (10, 9, 1_000, false),
        (10, 8, 1_000, true),
        (10, 8, 500, true),
        (10, 9, 500, false),
        (10, 7, 2_000, true),
        (10, 8, 2_000, false),
        (10, 7, 2_500, false),
        (2, 1, 1_000, false),
        (2, 0, 1_000, true),
    ] {
        let ttl = TimeToLive {
            granted: Duration::from_secs(granted),
            remaining: Duration::from_secs(remaining),
        };
        assert_eq!(
            is_silent(ttl, Duration::from_millis(limit_ms)),
            silent,
            "{ttl:?} {limit_ms}"
        );
    }
}

#[test]
fn the_next_in_the_queue_asks_twice_a_second_and_suspects_who_is_silent() {
    let mut challenger = queued(1);
    // First the limit, then the TTL.
    let id = reads(&challenger.due(at(0)));
    challenger.read(id, at(1), Some(&clear()));
    let ask = |challenger: &mut Challenger, ms| {
        let steps = challenger.due(at(ms));
        let [Step::AskTtl { id, lease: asked }] = steps[..] else {
            panic!("{steps:?}");
        };
        assert_eq!(asked, lease(0xa));
        id
    };
    let ttl = |remaining| TimeToLive {
        granted: Duration::from_secs(10),
        remaining: Duration::from_secs(remaining),
    };
    let id = ask(&mut challenger, 501);
    challenger.asked(id, at(502), Some(ttl(9)));
    assert_eq!(challenger.next_wakeup(), Some(at(1_002)));
    let id = ask(&mut challenger, 1_002);
    challenger.asked(id, at(1_003), None);
    let id = ask(&mut challenger, 1_503);
    challenger.asked(id, at(1_504), Some(ttl(8)));
    assert!(matches!(
        challenger.target.as_ref().unwrap().stage,
        Stage::Suspecting { .. }
    ));
}
