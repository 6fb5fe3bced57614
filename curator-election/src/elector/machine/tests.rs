//! The decisions, event by event, with time as an argument.

use super::*;
use crate::value::PlainText;

const TTL: Duration = Duration::from_secs(6);
const OWN: &str = "node-1";

fn at(ms: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(ms))
}

fn lease() -> LeaseId {
    LeaseId::new(0xabc).unwrap()
}

fn machine() -> Machine<PlainText> {
    let timing = Timing {
        ttl: TTL,
        limit: None,
        nonce: 0,
        margin: None,
        observation_ttl: TTL,
        open_timeout: Duration::from_secs(7),
        close_timeout: Duration::from_secs(2),
    };
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), 1);
    Machine::new(OWN.into(), Process::default(), timing, backoff, at(0))
}

fn granted() -> Event {
    Event::Granted {
        sent_at: at(0),
        result: Ok(Lease { id: lease(), ttl: TTL }),
    }
}

fn queued() -> Machine<PlainText> {
    let mut machine = machine();
    assert_eq!(machine.handle(at(0), Event::Tick), [Command::List]);
    assert_eq!(
        machine.handle(at(0), Event::Listed(Ok(vec![]))),
        [Command::Grant { ttl: TTL }]
    );
    assert_eq!(
        machine.handle(at(10), granted()),
        [Command::Campaign {
            lease: lease(),
            record: None
        }]
    );
    machine
}

fn elected() -> Elected {
    Elected {
        key: "/leader/abc".into(),
        revision: Revision(7),
        won_at: Revision(20),
        has_challenge_key: false,
    }
}

fn leading() -> Machine<PlainText> {
    let mut machine = queued();
    let commands = machine.handle(at(20), Event::Campaigned(Ok(elected())));
    assert_eq!(
        commands,
        [Command::Lead {
            key: "/leader/abc".into(),
            revision: Revision(7),
            lease: lease(),
            deadline: at(5_400),
            confirmed: None
        }]
    );
    machine
}

/// Sends the renewal that is due, and nothing else.
fn renews(machine: &mut Machine<PlainText>, now: Instant) -> Attempt {
    let commands = machine.handle(now, Event::Tick);
    let [Command::Renew { attempt, .. }] = commands[..] else {
        panic!("{commands:?}")
    };
    attempt
}

fn candidate(name: &str, key: &str, created: i64) -> Candidate {
    Candidate {
        key: key.to_owned().into(),
        value: name.to_owned().into(),
        create_revision: Revision(created),
        mod_revision: Revision(created),
        lease: LeaseId::new(created),
    }
}

fn observed(revision: i64, leader: Option<Candidate>) -> Event {
    Event::Observed(Observation {
        revision: Revision(revision),
        leader,
    })
}

fn following(name: &str, key: &str, created: i64) -> Command<PlainText> {
    Command::Follow(LeaderInfo {
        leader: PlainText(name.into()),
        key: key.to_owned().into(),
        revision: Revision(created),
    })
}

fn unknown() -> StoreError {
    StoreError::Unknown {
        reason: "no answer".into(),
    }
}

fn undetermined(reason: Reason) -> Command<PlainText> {
    Command::Undetermined { reason }
}

fn close(lease: Option<LeaseId>, until: u64) -> Command<PlainText> {
    Command::Close {
        lease,
        until: at(until),
        keep_trying: false,
    }
}

#[test]
fn a_round_removes_what_an_earlier_process_left_and_nothing_else() {
    let mut machine = machine();
    machine.handle(at(0), Event::Tick);
    let found = vec![
        candidate("node-2", "/leader/1", 3),
        candidate(OWN, "/leader/2", 4),
        candidate(OWN, "/leader/3", 9),
    ];
    assert_eq!(
        machine.handle(at(1), Event::Listed(Ok(found))),
        [Command::Remove(vec![
            ("/leader/2".into(), Revision(4)),
            ("/leader/3".into(), Revision(9))
        ])]
    );
    assert_eq!(machine.handle(at(2), Event::Removed), [Command::Grant { ttl: TTL }]);
}

#[test]
fn a_failed_list_is_no_reason_not_to_campaign() {
    let mut machine = machine();
    machine.handle(at(0), Event::Tick);
    assert_eq!(
        machine.handle(at(1), Event::Listed(Err(unknown()))),
        [Command::Grant { ttl: TTL }]
    );
}

#[test]
fn a_failed_grant_ends_the_round_and_backs_off() {
    let mut machine = machine();
    machine.handle(at(0), Event::Tick);
    machine.handle(at(0), Event::Listed(Ok(vec![])));
    let commands = machine.handle(
        at(5),
        Event::Granted {
            sent_at: at(0),
            result: Err(unknown()),
        },
    );
    let reason = Reason::OpenFailed {
        word: "no_answer",
        error: unknown().to_string(),
    };
    assert_eq!(commands, [Command::Explain { reason }, close(None, 2_005)]);
    assert_eq!(machine.handle(at(5), Event::Closed), []);
    let next = machine.next_wakeup().unwrap();
    assert!(next > at(5) && next <= at(105), "{next:?}");
    assert_eq!(machine.handle(next, Event::Tick), [Command::List]);
}

#[test]
fn failed_rounds_do_not_spin() {
    let mut machine = machine();
    let mut now = at(0);
    let mut rounds = 0;
    while now < at(60_000) {
        if machine.handle(now, Event::Tick).contains(&Command::List) {
            rounds += 1;
        }
        machine.handle(now, Event::Listed(Err(unknown())));
        machine.handle(
            now,
            Event::Granted {
                sent_at: now,
                result: Err(unknown()),
            },
        );
        machine.handle(now, Event::Closed);
        now = machine.next_wakeup().unwrap();
    }
    assert!((10..=40).contains(&rounds), "{rounds} rounds in a minute");
}

#[test]
fn a_store_that_never_answers_ends_the_opening() {
    let mut machine = machine();
    machine.handle(at(0), Event::Tick);
    assert_eq!(machine.next_wakeup(), Some(at(7_000)));
    let reason = Reason::OpenFailed {
        word: "no_answer",
        error: "the store did not reply in time".into(),
    };
    assert_eq!(
        machine.handle(at(7_000), Event::Tick),
        [Command::Explain { reason }, close(None, 9_000)]
    );
}

#[test]
fn a_queued_candidate_follows_and_renews() {
    let mut machine = queued();
    let observation = observed(10, Some(candidate("node-2", "/leader/1", 3)));
    assert_eq!(
        machine.handle(at(30), observation),
        [following("node-2", "/leader/1", 3)]
    );
    // The same again changes nothing.
    assert_eq!(
        machine.handle(at(40), observed(11, Some(candidate("node-2", "/leader/1", 3)))),
        []
    );
    let Command::Renew { lease: renewed, .. } = machine.handle(at(2_000), Event::Tick)[0] else {
        panic!()
    };
    assert_eq!(renewed, lease());
    // The same node with a new key is another term of it.
    let observation = observed(12, Some(candidate("node-2", "/leader/9", 12)));
    assert_eq!(
        machine.handle(at(2_100), observation),
        [following("node-2", "/leader/9", 12)]
    );
}

#[test]
fn nobody_follows_itself() {
    let mut machine = queued();
    machine.handle(at(30), observed(10, Some(candidate("node-2", "/leader/1", 3))));
    let own = observed(12, Some(own_key(7)));
    assert_eq!(machine.handle(at(40), own), [undetermined(Reason::OwnEarlierKey)]);
}

#[test]
fn a_leader_that_cannot_be_read_is_not_followed() {
    let mut machine = queued();
    machine.handle(at(30), observed(10, Some(candidate("node-2", "/leader/1", 3))));
    let mut odd = candidate("", "/leader/2", 4);
    odd.value = Bytes::from_static(&[0xff, 0xfe]);
    let commands = machine.handle(at(40), observed(12, Some(odd)));
    assert!(
        matches!(
            &commands[..],
            [Command::Undetermined {
                reason: Reason::Undecodable(_)
            }]
        ),
        "{commands:?}"
    );
}

#[test]
fn news_that_nobody_confirms_grow_too_old() {
    let mut machine = queued();
    machine.handle(at(1_000), observed(10, Some(candidate("node-2", "/leader/1", 3))));
    // Renewals go on: only the observer is stuck, as it would be on a member without quorum.
    for ms in (2_000..7_000).step_by(1_000) {
        for command in machine.handle(at(ms), Event::Tick) {
            if let Command::Renew { attempt, .. } = command {
                machine.handle(
                    at(ms),
                    Event::Renewed {
                        id: attempt.id,
                        result: Ok(TTL),
                    },
                );
            }
        }
    }
    assert!(machine.next_wakeup().unwrap() <= at(7_000));
    let commands = machine.handle(at(7_000), Event::Tick);
    assert!(
        commands.contains(&undetermined(Reason::ObservationStale)),
        "{commands:?}"
    );
    // A new observation makes it a follower again, in the same round.
    let observation = observed(11, Some(candidate("node-2", "/leader/1", 3)));
    assert_eq!(
        machine.handle(at(7_100), observation),
        [following("node-2", "/leader/1", 3)]
    );
}

#[test]
fn a_leader_extends_from_the_send_time_and_steps_down_without_help() {
    let mut machine = leading();
    let attempt = renews(&mut machine, at(2_000));
    let commands = machine.handle(
        at(3_900),
        Event::Renewed {
            id: attempt.id,
            result: Ok(TTL),
        },
    );
    // The answer was late enough for another attempt, and the deadline counts from the first one's sending all the
    // same.
    assert!(matches!(commands[0], Command::Renew { .. }), "{commands:?}");
    assert_eq!(
        commands[1..],
        [Command::Extend {
            deadline: at(2_000) + TTL - TTL / 10
        }]
    );
    // No more replies arrive. The term ends exactly at the deadline.
    let mut now = machine.next_wakeup().unwrap();
    while now < at(7_400) {
        let commands = machine.handle(now, Event::Tick);
        assert!(
            commands
                .iter()
                .all(|command| matches!(command, Command::Renew { .. } | Command::Relist)),
            "{commands:?}"
        );
        now = machine.next_wakeup().unwrap();
    }
    assert_eq!(now, at(7_400));
    assert_eq!(
        machine.handle(now, Event::Tick),
        [undetermined(Reason::LeaseExpired), close(Some(lease()), 9_400)]
    );
}

#[test]
fn an_answer_that_arrives_after_the_deadline_extends_nothing() {
    let mut machine = leading();
    let attempt = renews(&mut machine, at(2_000));
    // The process was stopped, say: the answer and the deadline are found at the same time.
    assert_eq!(
        machine.handle(
            at(20_000),
            Event::Renewed {
                id: attempt.id,
                result: Ok(TTL)
            }
        ),
        [undetermined(Reason::LeaseExpired), close(Some(lease()), 22_000)]
    );
}

#[test]
fn a_victory_that_arrives_after_the_deadline_is_none() {
    let mut machine = queued();
    assert_eq!(
        machine.handle(at(5_400), Event::Campaigned(Ok(elected()))),
        [close(Some(lease()), 7_400)]
    );
    assert!(!machine.is_leader());
}

#[test]
fn renewal_refused_by_another_cluster_ends_the_term_at_once() {
    let mut machine = leading();
    let attempt = renews(&mut machine, at(2_000));
    let foreign = StoreError::Refused {
        kind: RefusalKind::WrongCluster,
        reason: "a test".into(),
    };
    let reason = Reason::WrongCluster(foreign.to_string());
    assert_eq!(
        machine.handle(
            at(2_010),
            Event::Renewed {
                id: attempt.id,
                result: Err(foreign)
            }
        ),
        [undetermined(reason), close(Some(lease()), 4_010)]
    );
}

#[test]
fn a_lease_that_is_gone_ends_the_term_at_once() {
    let mut machine = leading();
    let attempt = renews(&mut machine, at(2_000));
    let gone = Err(StoreError::LeaseNotFound { id: lease() });
    assert_eq!(
        machine.handle(
            at(2_010),
            Event::Renewed {
                id: attempt.id,
                result: gone
            }
        ),
        [undetermined(Reason::LeaseGone), close(None, 4_010)]
    );
}

#[test]
fn a_failed_renewal_is_tried_elsewhere_and_ends_nothing() {
    let mut machine = leading();
    let attempt = renews(&mut machine, at(2_000));
    assert_eq!(
        machine.handle(
            at(2_010),
            Event::Renewed {
                id: attempt.id,
                result: Err(unknown())
            }
        ),
        []
    );
    let again = machine.next_wakeup().unwrap();
    let second = renews(&mut machine, again);
    assert_ne!(second.route, attempt.route);
}

#[test]
fn a_leader_whose_key_is_gone_stops_but_not_for_old_news() {
    let mut machine = leading();
    // An observation from before revision 20, at which it was elected, proves nothing.
    assert_eq!(
        machine.handle(at(30), observed(19, Some(candidate("node-2", "/leader/1", 3)))),
        []
    );
    assert_eq!(
        machine.handle(at(40), observed(21, Some(candidate(OWN, "/leader/abc", 7)))),
        []
    );
    assert_eq!(
        machine.handle(at(50), observed(25, Some(candidate("node-3", "/leader/f", 12)))),
        [undetermined(Reason::LockLost), close(Some(lease()), 2_050)]
    );
}

#[test]
fn the_own_key_created_anew_is_not_the_own_term() {
    let mut machine = leading();
    let commands = machine.handle(at(50), observed(25, Some(candidate(OWN, "/leader/abc", 24))));
    assert_eq!(commands[0], undetermined(Reason::LockLost));
}

#[test]
fn fenced_out_and_asked_to_step_down_end_the_term_only() {
    for (event, reason) in [
        (Event::FencedOut, Reason::FencedOut),
        (Event::StepDown, Reason::StepDown),
    ] {
        let mut machine = leading();
        assert_eq!(
            machine.handle(at(50), event),
            [undetermined(reason), close(Some(lease()), 2_050)]
        );
        assert_eq!(machine.handle(at(60), Event::Closed), []);
        assert!(
            machine.next_wakeup().unwrap() > at(60),
            "backs off, so that another may win"
        );
    }
    for event in [Event::FencedOut, Event::StepDown] {
        assert_eq!(queued().handle(at(50), event), []);
    }
}

#[test]
fn a_lost_campaign_gives_the_lease_back() {
    let mut machine = queued();
    machine.handle(at(30), observed(10, Some(candidate("node-2", "/leader/1", 3))));
    let lost = CampaignError::KeyLost {
        key: "/leader/abc".into(),
    };
    let commands = machine.handle(at(50), Event::Campaigned(Err(lost)));
    assert!(
        matches!(
            &commands[..],
            [Command::Undetermined { .. }, Command::Close { lease: Some(_), .. }]
        ),
        "{commands:?}"
    );
}

#[test]
fn shutting_down_resigns_first() {
    let mut machine = leading();
    assert_eq!(
        machine.handle(at(50), Event::Shutdown),
        [undetermined(Reason::Shutdown), close(Some(lease()), 2_050)]
    );
    assert!(!machine.is_stopped());
    machine.handle(at(60), Event::Closed);
    assert!(machine.is_stopped());
    assert_eq!(machine.next_wakeup(), None);
}

#[test]
fn shutting_down_does_not_wait_for_a_store_that_is_gone() {
    let mut machine = leading();
    machine.handle(at(50), Event::Shutdown);
    machine.handle(at(2_050), Event::Tick);
    assert!(machine.is_stopped());
}

#[test]
fn shutting_down_between_rounds_is_done_at_once() {
    let mut machine = machine();
    machine.handle(at(0), Event::Tick);
    machine.handle(
        at(0),
        Event::Granted {
            sent_at: at(0),
            result: Err(unknown()),
        },
    );
    machine.handle(at(0), Event::Closed);
    machine.handle(at(1), Event::Shutdown);
    assert!(machine.is_stopped());
}

/// Every state meets every event; what becomes of it is written down, so that a new transition is seen in review.
#[test]
fn transition_table() {
    type Make = fn() -> Machine<PlainText>;
    type Happen = fn() -> Event;
    let opening: Make = || {
        let mut machine = machine();
        machine.handle(at(0), Event::Tick);
        machine
    };
    let following_state: Make = || {
        let mut machine = queued();
        machine.handle(at(30), observed(10, Some(candidate("node-2", "/leader/1", 3))));
        machine
    };
    let closing: Make = || {
        let mut machine = leading();
        machine.handle(at(30), Event::StepDown);
        machine
    };
    let waiting: Make = || {
        let mut machine = leading();
        machine.handle(at(30), Event::StepDown);
        machine.handle(at(40), Event::Closed);
        machine
    };
    let stopped: Make = || {
        let mut machine = leading();
        machine.handle(at(30), Event::Shutdown);
        machine.handle(at(40), Event::Closed);
        machine
    };
    let states: [(&str, Make); 7] = [
        ("waiting", waiting),
        ("opening", opening),
        ("queued", queued),
        ("following", following_state),
        ("leading", leading),
        ("closing", closing),
        ("stopped", stopped),
    ];
    let events: [(&str, Happen); 11] = [
        ("listed", || Event::Listed(Ok(vec![]))),
        ("removed", || Event::Removed),
        ("granted", granted),
        ("grant failed", || Event::Granted {
            sent_at: at(0),
            result: Err(unknown()),
        }),
        ("won", || Event::Campaigned(Ok(elected()))),
        ("lost", || {
            Event::Campaigned(Err(CampaignError::KeyLost {
                key: "/leader/abc".into(),
            }))
        }),
        ("observed", || observed(21, Some(candidate("node-2", "/leader/1", 3)))),
        ("fenced out", || Event::FencedOut),
        ("step down", || Event::StepDown),
        ("closed", || Event::Closed),
        ("shutdown", || Event::Shutdown),
    ];
    let name = |machine: &Machine<PlainText>| match (&machine.state, &machine.published) {
        (State::Waiting { .. }, _) => "waiting",
        (State::Opening { .. }, _) => "opening",
        (State::Running(_), Published::Undetermined) => "queued",
        (State::Running(_), Published::Follower(_)) => "following",
        (State::Running(_), Published::Leader) => "leading",
        (State::Closing { .. }, _) => "closing",
        (State::Stopped, _) => "stopped",
    };
    let mut table = String::new();
    for (state, make) in states {
        for (event, happen) in events {
            let mut machine = make();
            assert_eq!(name(&machine), state);
            machine.handle(at(45), happen());
            if name(&machine) != state {
                table.push_str(&format!("{state} --{event}--> {}\n", name(&machine)));
            }
        }
    }
    assert_eq!(table, TRANSITIONS);
}

const TRANSITIONS: &str = "\
waiting --shutdown--> stopped
opening --granted--> queued
opening --grant failed--> closing
opening --shutdown--> closing
queued --won--> leading
queued --lost--> closing
queued --observed--> following
queued --shutdown--> closing
following --won--> leading
following --lost--> closing
following --shutdown--> closing
leading --lost--> closing
leading --observed--> closing
leading --fenced out--> closing
leading --step down--> closing
leading --shutdown--> closing
closing --closed--> waiting
";

#[test]
fn reason_follows_the_kind_of_the_last_failure() {
    let mut machine = machine();
    let refused = |kind| StoreError::Refused {
        kind,
        reason: "a test".into(),
    };
    let mut now = 0;
    let mut told = Vec::new();
    let failures = [
        StoreError::Unreachable { reason: "one".into() },
        StoreError::Unreachable { reason: "two".into() },
        refused(RefusalKind::NoSpace),
        refused(RefusalKind::NoSpace),
        refused(RefusalKind::Permission),
        StoreError::Unreachable { reason: "three".into() },
    ];
    for error in failures {
        now += 10_000;
        machine.handle(at(now), Event::Tick);
        machine.handle(at(now), Event::Listed(Ok(Vec::new())));
        let failed = Event::Granted {
            sent_at: at(now),
            result: Err(error),
        };
        told.extend(
            machine
                .handle(at(now), failed)
                .into_iter()
                .filter_map(|command| match command {
                    Command::Explain { reason } => Some(reason.to_string()),
                    _ => None,
                }),
        );
        machine.handle(at(now), Event::Closed);
    }
    let parts = ["one", "a test", "a test", "three"];
    assert_eq!(told.len(), parts.len(), "{told:?}");
    assert!(
        told.iter().zip(parts).all(|(told, part)| told.contains(part)),
        "{told:?}"
    );
}

#[test]
fn a_leader_whose_store_goes_back_ends_its_term_and_says_so_once() {
    let mut machine = leading();
    let own = candidate(OWN, "/leader/abc", 7);
    assert_eq!(machine.handle(at(30), observed(90, Some(own.clone()))), []);
    let went_back = WentBack {
        seen: Revision(90),
        found: Revision(40),
    };
    let commands = machine.handle(at(40), observed(40, Some(own)));
    let [
        Command::WentBack(told),
        Command::Undetermined { reason },
        Command::Close { .. },
    ] = &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!(
        (told, reason),
        (&went_back, &Reason::WentBack(went_back)),
        "{commands:?}"
    );
    assert!(!machine.is_leader());
}

#[test]
fn a_term_that_finds_its_store_gone_back_ends() {
    let mut machine = leading();
    let own = candidate(OWN, "/leader/abc", 7);
    assert_eq!(machine.handle(at(30), observed(90, Some(own))), []);
    let went_back = WentBack {
        seen: Revision(95),
        found: Revision(40),
    };
    let commands = machine.handle(at(40), Event::WentBack(went_back));
    assert_eq!(commands[0], Command::WentBack(went_back));
    assert!(
        commands.contains(&Command::Undetermined {
            reason: Reason::WentBack(went_back)
        }),
        "{commands:?}"
    );
}

#[test]
fn a_follower_of_a_store_that_goes_back_goes_on_following() {
    let mut machine = queued();
    let other = candidate("node-2", "/leader/1", 5);
    machine.handle(at(20), observed(90, Some(other.clone())));
    let commands = machine.handle(at(30), observed(40, Some(other.clone())));
    let went_back = WentBack {
        seen: Revision(90),
        found: Revision(40),
    };
    assert_eq!(commands, [Command::WentBack(went_back)]);
    // Once.
    assert_eq!(machine.handle(at(40), observed(41, Some(other))), []);
}

/// The key of this candidate's present round.
fn own_key(created: i64) -> Candidate {
    Candidate {
        lease: Some(lease()),
        ..candidate(OWN, "/leader/abc", created)
    }
}

fn told(commands: &[Command<PlainText>]) -> Vec<&str> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Duplicated { message } => Some(message.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn of_two_that_stand_the_younger_one_yields_for_a_ttl_and_tells_it_once() {
    let mut machine = queued();
    // That the leader has the own id and not the own lease is a reason to look.
    let other = || candidate(OWN, "/leader/1", 3);
    assert_eq!(machine.handle(at(30), observed(4, Some(other()))), [Command::Relist]);
    let commands = machine.handle(at(40), Event::Relisted(Ok(vec![other(), own_key(7)])));
    let [text] = told(&commands)[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(
        commands[1..],
        [
            Command::Explain {
                reason: Reason::Duplicate(text.into())
            },
            close(Some(lease()), 2_040)
        ]
    );
    machine.handle(at(50), Event::Closed);
    for round in 0_u64..3 {
        let next = machine.next_wakeup().unwrap();
        assert!(next >= at(50 + (round + 1) * 6_000), "round {round}: {next:?}");
        assert_eq!(machine.handle(next, Event::Tick), [Command::List]);
        let commands = machine.handle(next, Event::Listed(Ok(vec![other()])));
        assert_eq!(told(&commands), Vec::<&str>::new(), "round {round}: it is told already");
        assert!(
            !commands.iter().any(|command| matches!(command, Command::Grant { .. })),
            "round {round}: {commands:?}"
        );
        machine.handle(next, Event::Closed);
    }
    let next = machine.next_wakeup().unwrap();
    machine.handle(next, Event::Tick);
    assert_eq!(
        machine.handle(next, Event::Listed(Ok(vec![]))),
        [Command::Alone, Command::Grant { ttl: TTL }]
    );
}

#[test]
fn a_leader_stays_beside_a_younger_process_and_tells_it_once() {
    let mut machine = leading();
    let mut looks = 0;
    let mut tellings = 0;
    for now in (1_000..60_000).step_by(1_000) {
        for command in machine.handle(at(now), Event::Tick) {
            match command {
                Command::Renew { attempt, .. } => {
                    machine.handle(
                        at(now),
                        Event::Renewed {
                            id: attempt.id,
                            result: Ok(TTL),
                        },
                    );
                }
                Command::Relist => {
                    looks += 1;
                    let found = vec![own_key(7), candidate(OWN, "/leader/9", 9)];
                    tellings += told(&machine.handle(at(now), Event::Relisted(Ok(found)))).len();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(machine.is_leader());
    assert_eq!((looks, tellings), (9, 1));
}

#[test]
fn what_an_earlier_process_left_goes_even_if_another_process_is_found() {
    let mut machine = machine();
    machine.own = Own::new(OWN.into(), Process::default());
    machine.handle(at(0), Event::Tick);
    machine.handle(at(1), Event::Listed(Ok(vec![])));
    machine.handle(at(2), granted());
    machine.handle(
        at(3),
        Event::Renewed {
            id: 0,
            result: Err(StoreError::LeaseNotFound { id: lease() }),
        },
    );
    machine.handle(at(4), Event::Closed);
    machine.handle(at(1_000), Event::Tick);
    let found = vec![own_key(7), candidate(OWN, "/leader/9", 9)];
    assert_eq!(
        machine.handle(at(1_001), Event::Listed(Ok(found))),
        [Command::Remove(vec![("/leader/abc".into(), Revision(7))])]
    );
    let commands = machine.handle(at(1_002), Event::Removed);
    assert_eq!(told(&commands).len(), 1, "{commands:?}");
    assert!(commands.contains(&close(None, 3_002)), "{commands:?}");
}

/// A candidate with a failover limit.
fn queued_with_limit() -> Machine<PlainText> {
    let mut machine = machine();
    machine.timing.limit = Some(Limit::new(Duration::from_secs(1)));
    machine.handle(at(0), Event::Tick);
    machine.handle(at(0), Event::Listed(Ok(vec![])));
    machine.handle(at(0), granted());
    machine
}

fn won_with_limit() -> Event {
    Event::Campaigned(Ok(Elected {
        has_challenge_key: true,
        ..elected()
    }))
}

/// A candidate that does not know its place reads the queue often: not beside a read that the store does not answer.
#[test]
fn candidates_are_read_again_once_at_a_time() {
    let mut machine = queued_with_limit();
    let relists =
        |commands: &[Command<PlainText>]| commands.iter().filter(|&command| *command == Command::Relist).count();
    let mut reads = 0;
    for now in (100..1_900).step_by(100) {
        reads += relists(&machine.handle(at(now), Event::Tick));
    }
    assert_eq!(reads, 1, "none was answered");
    // The next read is due already.
    assert_eq!(relists(&machine.handle(at(1_900), Event::Relisted(Err(unknown())))), 1);
}

/// Candidates need not: only the silence of the oldest one matters.
#[test]
fn leader_with_a_failover_limit_renews_its_lease_at_once_and_often() {
    let mut machine = queued_with_limit();
    let renewals = |commands: Vec<Command<PlainText>>| -> Vec<Attempt> {
        let attempts = commands.into_iter().filter_map(|command| match command {
            Command::Renew { attempt, .. } => Some(attempt),
            _ => None,
        });
        attempts.collect()
    };
    for now in (0..2_000).step_by(100) {
        assert_eq!(
            renewals(machine.handle(at(now), Event::Tick)),
            [],
            "at {now} ms in the queue"
        );
    }
    let [first] = renewals(machine.handle(at(1_950), won_with_limit()))[..] else {
        panic!("not renewed at once")
    };
    let renewed = Event::Renewed {
        id: first.id,
        result: Ok(TTL),
    };
    assert_eq!(renewals(machine.handle(at(1_960), renewed)), []);
    assert_eq!(renewals(machine.handle(at(2_449), Event::Tick)), []);
    assert_eq!(renewals(machine.handle(at(2_450), Event::Tick)).len(), 1);
}

#[test]
fn elected_candidate_whose_term_is_not_confirmed_yet_does_not_follow_the_leader_before_it() {
    let mut machine = queued_with_limit();
    let other = candidate("node-2", "/leader/1", 3);
    assert_eq!(
        machine.handle(at(10), observed(8, Some(other))),
        [following("node-2", "/leader/1", 3)]
    );
    machine.handle(at(20), won_with_limit());
    assert_eq!(
        machine.handle(at(30), observed(21, Some(own_key(7)))),
        [undetermined(Reason::OwnEarlierKey)]
    );
}
