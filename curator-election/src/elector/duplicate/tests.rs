//! Which of two processes stays, case by case.

use curator_proto::private::LeaderElectionValue;

use super::*;

const ID: &str = "node-1";

fn process(number: &str, address: &str, boot: &str) -> Process {
    Process {
        number: number.into(),
        address: address.into(),
        boot: boot.into(),
    }
}

fn lease(id: i64) -> LeaseId {
    LeaseId::new(id).unwrap()
}

/// A key whose lease is as its create revision.
fn key(id: &str, process: &Process, created: i64) -> Candidate {
    let value = LeaderElectionValue {
        node_id: id.into(),
        advertised_addresses: Some(process.address.clone())
            .filter(|address| !address.is_empty())
            .into_iter()
            .collect(),
        process: process.number.clone(),
        boot: process.boot.clone(),
        ..Default::default()
    };
    Candidate {
        key: format!("/leader/{created:x}").into(),
        value: LeaderValue::encode(&value).into(),
        create_revision: Revision(created),
        mod_revision: Revision(created + 100),
        lease: LeaseId::new(created),
    }
}

fn look(own: &mut Own, candidates: Vec<Candidate>, present: Option<LeaseId>) -> Found {
    own.examine::<LeaderElectionValue>(candidates, present)
}

/// Each row: what this process reports, what the other key reports, and what that key is found to be if it was
/// there at the first look, and if it came later.
#[test]
fn whose_a_key_is() {
    const STALE: &str = "stale";
    const WAIT: &str = "waited for";
    const LIVES: &str = "another process";
    let this = ("a", "h:1", "boot-1");
    let silent = ("", "", "");
    let rows = [
        (this, this, STALE, STALE, "the own number"),
        (
            this,
            ("a", "h:2", "boot-2"),
            STALE,
            STALE,
            "the own number, whatever else is said",
        ),
        (this, ("b", "h:1", "boot-1"), STALE, LIVES, "started again"),
        (this, ("b", "h:2", "boot-1"), WAIT, LIVES, "another address"),
        (this, ("b", "h:1", "boot-2"), WAIT, LIVES, "another boot"),
        (
            this,
            ("", "h:1", ""),
            STALE,
            LIVES,
            "an older version, at the own address",
        ),
        (this, ("", "h:2", ""), WAIT, LIVES, "an older version elsewhere"),
        (this, silent, STALE, LIVES, "a Go candidate"),
        (silent, this, STALE, LIVES, "nothing to compare with"),
        (silent, silent, STALE, LIVES, "nothing is said"),
    ];
    for ((number, address, boot), other, at_first, later, what) in rows {
        let other = process(other.0, other.1, other.2);
        let found = |is_first: bool| {
            let mut own = Own::new(ID.into(), process(number, address, boot));
            if !is_first {
                look(&mut own, vec![key("node-2", &other, 3)], None);
                own.granted(lease(77));
            }
            let found = look(&mut own, vec![key(ID, &other, 9)], None);
            match (found.stale.as_slice(), found.duplicate) {
                ([(key, Revision(109))], None) if key == "/leader/9" => STALE,
                ([], Some(Duplicate { lives: false, .. })) => WAIT,
                ([], Some(Duplicate { lives: true, .. })) => LIVES,
                other => panic!("{what}: {other:?}"),
            }
        };
        assert_eq!((found(true), found(false)), (at_first, later), "{what}");
    }
}

#[test]
fn a_key_under_an_own_lease_is_the_own_whatever_it_says() {
    let mut own = Own::new(ID.into(), Process::default());
    look(&mut own, vec![], None);
    own.granted(lease(9));
    own.granted(lease(10));
    let keys = vec![key(ID, &Process::default(), 9), key(ID, &Process::default(), 10)];
    let found = look(&mut own, keys, Some(lease(10)));
    // That of the present round is not stale.
    assert_eq!(found.stale, [("/leader/9".into(), Revision(109))]);
    assert_eq!(found.duplicate, None);
}

#[test]
fn keys_of_others_and_such_that_cannot_be_read_are_left_alone() {
    let mut own = Own::new(ID.into(), process("a", "h:1", "boot-1"));
    let mut unreadable = key(ID, &Process::default(), 3);
    unreadable.value = "\u{0}".into();
    let found = look(
        &mut own,
        vec![unreadable, key("node-2", &process("b", "h:2", ""), 4)],
        None,
    );
    assert_eq!(found, Found::default());
}

/// Both see the same keys, in any order of their starts: one of them yields, and it is the one with the younger key.
#[test]
fn of_two_just_one_yields() {
    let processes = [process("a", "h:1", "boot-1"), process("b", "h:2", "boot-2")];
    for created in [[5, 6], [6, 5]] {
        let keys = || vec![key(ID, &processes[0], created[0]), key(ID, &processes[1], created[1])];
        let yields = [0, 1].map(|this: usize| {
            let mut own = Own::new(ID.into(), processes[this].clone());
            look(&mut own, vec![], None);
            own.granted(lease(created[this]));
            let found = look(&mut own, keys(), Some(lease(created[this])));
            let duplicate = found.duplicate.expect("the other one");
            assert_eq!(duplicate.process, processes[1 - this]);
            assert!(duplicate.lives && found.stale.is_empty());
            duplicate.is_older
        });
        assert_eq!(
            yields,
            [created[0] > created[1], created[1] > created[0]],
            "{created:?}"
        );
    }
}

#[test]
fn of_several_the_oldest_is_what_counts() {
    let mut own = Own::new(ID.into(), process("a", "h:1", ""));
    look(&mut own, vec![], None);
    own.granted(lease(6));
    let keys = vec![
        key(ID, &process("c", "h:3", ""), 7),
        key(ID, &process("b", "h:2", ""), 5),
        key(ID, &process("a", "h:1", ""), 6),
    ];
    let duplicate = look(&mut own, keys, Some(lease(6))).duplicate.unwrap();
    assert!(duplicate.is_older && duplicate.process.number == "b", "{duplicate:?}");
}

#[test]
fn who_could_not_look_before_it_stood_takes_no_key_for_its_own_and_calls_none_alive() {
    let mut own = Own::new(ID.into(), process("a", "h:1", "boot-1"));
    own.granted(lease(9));
    let keys = vec![
        key(ID, &process("b", "h:1", "boot-1"), 5),
        key(ID, &process("a", "h:1", "boot-1"), 9),
    ];
    let duplicate = look(&mut own, keys, Some(lease(9))).duplicate.unwrap();
    assert!(!duplicate.lives && duplicate.is_older);
    // But one that came after the own key did lives.
    let keys = vec![
        key(ID, &process("a", "h:1", "boot-1"), 9),
        key(ID, &process("b", "h:1", "boot-1"), 11),
    ];
    let duplicate = look(&mut own, keys, Some(lease(9))).duplicate.unwrap();
    assert!(duplicate.lives && !duplicate.is_older);
}

#[test]
fn leases_are_remembered_up_to_a_bound() {
    let mut own = Own::new(ID.into(), Process::default());
    for id in 1..=40 {
        own.granted(lease(id));
    }
    assert_eq!(own.leases.len(), MAX_LEASES);
    assert!(own.holds(LeaseId::new(40)) && own.holds(LeaseId::new(25)) && !own.holds(LeaseId::new(24)));
    assert!(!own.holds(None));
}

#[test]
fn both_addresses_are_told() {
    let own = Own::new(ID.into(), process("a", "h:1", ""));
    for (lives, is_older, part) in [
        (true, true, "Its key is older"),
        (true, false, "so it stays"),
        (false, true, "if that process is dead"),
    ] {
        let text = own.describe(&Duplicate {
            process: process("b", "h:2", ""),
            lives,
            is_older,
        });
        assert!(
            text.contains("at h:2 (this process: h:1)") && text.contains(ID) && text.contains(part),
            "{text}"
        );
    }
}
