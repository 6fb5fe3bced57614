//! The elector on a mocked backend: each failure of each call, under a paused clock.

use futures::{StreamExt, stream};

use super::*;
use crate::backend::{CampaignError, Candidate, Elected, MockElectionBackend};
use crate::clock::{Clock, TokioClock};
use crate::store::Lease;
use crate::store::{LeaseId, Revision, StoreError};
use crate::term::Term;
use crate::value::PlainText;

const TTL: Duration = Duration::from_secs(6);

fn lease() -> LeaseId {
    LeaseId::new(0xabc).unwrap()
}

fn unknown() -> StoreError {
    StoreError::Unknown {
        reason: "no answer".into(),
    }
}

fn elected() -> Elected {
    Elected {
        key: "/leader/abc".into(),
        revision: Revision(7),
        won_at: Revision(7),
        has_challenge_key: false,
    }
}

fn candidate(name: &'static str, created: i64) -> Candidate {
    Candidate {
        key: format!("/leader/{created:x}").into(),
        value: name.into(),
        create_revision: Revision(created),
        mod_revision: Revision(created),
        lease: LeaseId::new(created),
    }
}

/// A backend on which everything works, but for what a test has said before: mockall takes the first that still
/// applies.
fn add_what_works(backend: &mut MockElectionBackend) {
    backend.expect_candidates().returning(|| Ok(vec![]));
    backend.expect_grant().returning(|ttl| Ok(Lease { id: lease(), ttl }));
    backend.expect_keep_alive().returning(|_, _| Ok(TTL));
    backend.expect_observe().returning(|| stream::pending().boxed());
    backend.expect_campaign().returning(|_, _, _| Ok(elected()));
    backend.expect_revoke().returning(|_| Ok(()));
}

struct Running {
    handle: ElectorHandle<PlainText>,
    status: watch::Receiver<ElectionStatus<PlainText>>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    clock: TokioClock,
}

fn run(backend: MockElectionBackend) -> Running {
    run_with(backend, |_| None)
}

fn run_with(backend: MockElectionBackend, liveness: impl FnOnce(SharedClock) -> Option<LivenessProbe>) -> Running {
    let clock = TokioClock::new();
    let config = ElectorConfig {
        ttl: TTL,
        liveness: liveness(Arc::new(clock.clone())),
        clock: Arc::new(clock.clone()),
        seed: Some(1),
        ..ElectorConfig::default()
    };
    let elector = Elector::new(Arc::new(backend), &PlainText("node-1".into()), config).unwrap();
    let cancel = CancellationToken::new();
    let handle = elector.handle();
    Running {
        status: handle.status(),
        handle,
        task: tokio::spawn(elector.run(cancel.clone())),
        cancel,
        clock,
    }
}

impl Running {
    async fn leads(&mut self) -> Term {
        let leads = self
            .status
            .wait_for(|status| matches!(status, ElectionStatus::Leader(_)));
        let status = tokio::time::timeout(Duration::from_secs(60), leads)
            .await
            .expect("leads in time")
            .unwrap()
            .clone();
        match status {
            ElectionStatus::Leader(term) => term,
            other => unreachable!("{other:?}"),
        }
    }

    async fn undetermined(&mut self) -> Reason {
        let wait = self
            .status
            .wait_for(|status| matches!(status, ElectionStatus::Undetermined(_)));
        match tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("ends in time")
            .unwrap()
            .clone()
        {
            ElectionStatus::Undetermined(reason) => reason,
            other => unreachable!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leads_renews_and_resigns() {
    let mut backend = MockElectionBackend::new();
    backend
        .expect_revoke()
        .times(1)
        .withf(|id| *id == lease())
        .returning(|_| Ok(()));
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let term = elector.leads().await;
    assert_eq!(
        (term.lock_key().as_ref(), term.lock_revision()),
        (&b"/leader/abc"[..], Revision(7))
    );
    // Ten TTLs later it is still the same term, for its lease was renewed all along.
    tokio::time::sleep(10 * TTL).await;
    assert!(term.is_valid() && term.remaining() > TTL / 2);
    elector.cancel.cancel();
    elector.task.await.unwrap();
    assert!(!term.is_valid());
    assert_eq!(
        elector.status.borrow().clone(),
        ElectionStatus::Undetermined(Reason::Shutdown)
    );
}

#[tokio::test(start_paused = true)]
async fn every_call_may_fail_and_the_next_round_makes_up_for_it() {
    type Break = fn(&mut MockElectionBackend);
    let breaks: [(&str, Break); 5] = [
        ("candidates", |backend| {
            backend.expect_candidates().times(1).returning(|| Err(unknown()));
        }),
        ("grant", |backend| {
            backend.expect_grant().times(3).returning(|_| Err(unknown()));
        }),
        ("campaign", |backend| {
            let lost = || CampaignError::KeyLost {
                key: "/leader/abc".into(),
            };
            backend.expect_campaign().times(2).returning(move |_, _, _| Err(lost()));
        }),
        ("keep_alive", |backend| {
            backend.expect_keep_alive().times(2).returning(|_, _| Err(unknown()));
        }),
        ("remove", |backend| {
            backend
                .expect_candidates()
                .times(1)
                .returning(|| Ok(vec![candidate("node-1", 3)]));
            backend.expect_remove().times(1).returning(|_, _| Err(unknown()));
        }),
    ];
    for (call, broken) in breaks {
        let mut backend = MockElectionBackend::new();
        broken(&mut backend);
        add_what_works(&mut backend);
        let mut elector = run(backend);
        let term = elector.leads().await;
        tokio::time::sleep(2 * TTL).await;
        assert!(term.is_valid(), "{call}");
        elector.cancel.cancel();
        elector.task.await.expect(call);
    }
}

#[tokio::test(start_paused = true)]
async fn stale_keys_of_its_own_are_removed_by_their_revision_before_it_queues() {
    let mut backend = MockElectionBackend::new();
    let mut order = mockall::Sequence::new();
    backend
        .expect_candidates()
        .times(1)
        .in_sequence(&mut order)
        .returning(|| {
            Ok(vec![
                candidate("node-1", 3),
                candidate("node-2", 4),
                candidate("node-1", 5),
            ])
        });
    for created in [3, 5] {
        backend
            .expect_remove()
            .times(1)
            .in_sequence(&mut order)
            .withf(move |key, revision| *key == format!("/leader/{created:x}") && *revision == Revision(created))
            .returning(|_, _| Ok(true));
    }
    backend
        .expect_grant()
        .times(1)
        .in_sequence(&mut order)
        .returning(|ttl| Ok(Lease { id: lease(), ttl }));
    add_what_works(&mut backend);
    run(backend).leads().await;
}

#[tokio::test(start_paused = true)]
async fn renewals_that_are_never_answered_end_the_term_before_the_lease() {
    let mut backend = MockElectionBackend::new();
    backend.expect_keep_alive().returning(|_, _| {
        // The call itself would go on for ever.
        std::thread::yield_now();
        Err(unknown())
    });
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let begun = elector.clock.now();
    let term = elector.leads().await;
    assert_eq!(elector.undetermined().await, Reason::LeaseExpired);
    let took = elector.clock.now().saturating_since(begun);
    assert!(!term.is_valid());
    assert!(TTL - TTL / 10 <= took && took < TTL, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_gone_ends_the_term_and_is_not_given_back() {
    let mut backend = MockElectionBackend::new();
    backend
        .expect_keep_alive()
        .times(1)
        .returning(|id, _| Err(StoreError::LeaseNotFound { id }));
    // The one of the second round, when the test is over.
    backend.expect_revoke().times(1).returning(|_| Ok(()));
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let first = elector.leads().await;
    assert_eq!(elector.undetermined().await, Reason::LeaseGone);
    assert!(!first.is_valid());
    elector.leads().await;
    elector.cancel.cancel();
    elector.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn giving_the_lease_back_is_tried_again_and_let_go_in_the_end() {
    // A failure that passes: pitfall 5.
    let mut backend = MockElectionBackend::new();
    backend.expect_revoke().times(2).returning(|_| Err(unknown()));
    backend.expect_revoke().times(1).returning(|_| Ok(()));
    add_what_works(&mut backend);
    let mut elector = run(backend);
    elector.leads().await;
    elector.cancel.cancel();
    elector.task.await.unwrap();

    // One that does not: the elector ends all the same, in a stated time.
    let mut backend = MockElectionBackend::new();
    backend.expect_revoke().returning(|_| Err(unknown()));
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let term = elector.leads().await;
    let begun = elector.clock.now();
    elector.cancel.cancel();
    elector.task.await.unwrap();
    assert!(!term.is_valid());
    assert!(elector.clock.now().saturating_since(begun) <= Duration::from_millis(2_100));
}

#[tokio::test(start_paused = true)]
async fn stepping_down_answers_when_the_lease_is_back() {
    let mut backend = MockElectionBackend::new();
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let term = elector.leads().await;
    assert_eq!(elector.handle.step_down().await, Ok(StepDown::Done));
    assert!(!term.is_valid());
    // Nobody else is there, so that it leads again, in another term.
    let again = elector.leads().await;
    assert!(again.is_valid());
    elector.cancel.cancel();
    elector.task.await.unwrap();
    assert_eq!(elector.handle.step_down().await, Err(ElectorGone));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_cannot_step_down() {
    let mut backend = MockElectionBackend::new();
    backend.expect_campaign().returning(|_, _, _| {
        Err(CampaignError::KeyLost {
            key: "/leader/abc".into(),
        })
    });
    add_what_works(&mut backend);
    let elector = run(backend);
    assert_eq!(elector.handle.step_down().await, Ok(StepDown::NotLeader));
}

#[tokio::test(start_paused = true)]
async fn a_fenced_out_access_ends_the_term_and_begins_a_new_round() {
    let mut backend = MockElectionBackend::new();
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let term = elector.leads().await;
    term.report_fenced_out();
    assert!(!term.is_valid());
    assert_eq!(elector.undetermined().await, Reason::FencedOut);
    assert!(elector.leads().await.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_term_found_ended_by_somebody_else_is_not_held_on_to() {
    let mut backend = MockElectionBackend::new();
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let term = elector.leads().await;
    // Somebody asked at the very deadline, a moment before the renewal's answer was handled.
    let mut status = elector.status.clone();
    status.mark_unchanged();
    tokio::time::advance(TTL).await;
    assert!(!term.is_valid());
    let next = elector.undetermined().await;
    assert!(matches!(next, Reason::LeaseExpired | Reason::FencedOut), "{next:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_or_killing_the_elector_ends_its_term_and_says_so() {
    let mut backend = MockElectionBackend::new();
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let term = elector.leads().await;
    elector.task.abort();
    assert_eq!(elector.undetermined().await, Reason::ElectorGone);
    assert!(!term.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_backend_ends_the_term() {
    let mut backend = MockElectionBackend::new();
    backend.expect_keep_alive().returning(|_, _| panic!("on purpose"));
    add_what_works(&mut backend);
    let mut elector = run(backend);
    let term = elector.leads().await;
    assert_eq!(elector.undetermined().await, Reason::ElectorGone);
    assert!(!term.is_valid());
    assert!(elector.task.await.unwrap_err().is_panic());
}

#[tokio::test(start_paused = true)]
async fn a_margin_that_leaves_nothing_is_refused() {
    let config = ElectorConfig {
        ttl: TTL,
        margin: Some(TTL / 2),
        ..ElectorConfig::default()
    };
    let made = Elector::new(Arc::new(MockElectionBackend::new()), &PlainText("n".into()), config);
    assert!(made.is_err_and(|error| error.to_string().contains("less than half")));
}

#[tokio::test(start_paused = true)]
async fn an_owners_status_is_published_to_and_outlives_the_elector() {
    let mut backend = MockElectionBackend::new();
    add_what_works(&mut backend);
    let owned = watch::Sender::new(ElectionStatus::Undetermined(Reason::Starting));
    let mut seen = owned.subscribe();
    let config = ElectorConfig {
        ttl: TTL,
        clock: Arc::new(TokioClock::new()),
        ..ElectorConfig::default()
    };
    let elector = Elector::new(Arc::new(backend), &PlainText("node-1".into()), config).unwrap();
    let cancel = CancellationToken::new();
    let elector = elector.publish_to(owned.clone());
    let by_handle = elector.handle().status();
    let task = tokio::spawn(elector.run(cancel.clone()));
    let leads = seen.wait_for(|status| matches!(status, ElectionStatus::Leader(_)));
    let status = tokio::time::timeout(TTL, leads).await.expect("leads").unwrap().clone();
    assert_eq!(*by_handle.borrow(), status);
    cancel.cancel();
    task.await.unwrap();
    assert_eq!(*owned.borrow(), ElectionStatus::Undetermined(Reason::Shutdown));
    assert_eq!(status.valid_term(), None);
}

#[tokio::test(start_paused = true)]
async fn an_elector_leads_only_while_there_are_signs_of_life() {
    const LIMIT: Duration = Duration::from_secs(8);
    let mut backend = MockElectionBackend::new();
    let revoked = Arc::new(std::sync::Mutex::new(0));
    backend.expect_revoke().returning({
        let revoked = revoked.clone();
        move |_| {
            *revoked.lock().unwrap() += 1;
            Ok(())
        }
    });
    add_what_works(&mut backend);
    let mut liveness = None;
    let mut elector = run_with(backend, |clock| {
        liveness = Some(LivenessProbe::new(clock, LIMIT));
        liveness.clone()
    });
    let liveness = liveness.unwrap();
    let first = elector.leads().await;
    for _ in 0..20 {
        tokio::time::sleep(LIMIT / 2).await;
        liveness.report_alive();
    }
    assert!(first.is_valid(), "signs of life change nothing");

    let last = elector.clock.now();
    assert_eq!(elector.undetermined().await, Reason::Stuck);
    assert_eq!(elector.clock.now().saturating_since(last).as_secs(), LIMIT.as_secs());
    assert!(!first.is_valid());
    // However long it takes, it does not stand for election, and the lease was given back for others to lead.
    tokio::time::sleep(100 * TTL).await;
    assert!(matches!(*elector.status.borrow(), ElectionStatus::Undetermined(_)));
    assert_eq!(*revoked.lock().unwrap(), 1);

    let alive = elector.clock.now();
    liveness.report_alive();
    elector.leads().await;
    assert!(elector.clock.now().saturating_since(alive) < Duration::from_millis(10));
}
