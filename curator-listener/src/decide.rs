//! What becomes of a call for the leader: the rules, without any I/O.

use http::HeaderValue;

use crate::marks::{Marks, TermMark};
use crate::refusal::Refusal;
use crate::role::Leader;
use crate::version::Version;

/// What this instance is at the moment, as far as the rules care.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen<'a> {
    /// Nobody knows who leads.
    Unknown { reason: &'a str },
    /// This instance leads.
    Lead {
        term: &'a TermMark,
        /// The guard's answer at this moment.
        valid: bool,
        /// It is about to step down and takes nothing new.
        draining: bool,
    },
    /// Another one leads.
    Follow { leader: &'a Leader },
}

/// What to do with a call.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Answer it here.
    Serve,
    /// Pass it on to the leader.
    Forward,
    /// Wait for a leader; the refusal is for when there is none in time.
    Hold(Refusal),
    /// Refuse it.
    Refuse(Refusal),
}

/// Applies the rules. `me` names this process in the marks.
pub(crate) fn decide(seen: Seen<'_>, marks: &Marks, me: &HeaderValue) -> Decision {
    match &marks.hop {
        Some(hop) if hop.is_from(me) => Decision::Refuse(
            Refusal::unavailable("this call was forwarded to the instance that forwarded it: the election names this one as its own leader")
                .not_run("forwarded-to-itself"),
        ),
        // What its marks mean is not known, so that none of them counts.
        Some(hop) if let Some(refusal) = Version::refusal(hop.version()) => Decision::Refuse(refusal),
        Some(hop) => match seen {
            Seen::Lead { term, valid: true, draining: false } if hop.is_for(term) => Decision::Serve,
            // One hop only. The sender waits for the next leader, or for this one to learn that it is it.
            seen => Decision::Refuse(not_leader(seen)),
        },
        None => match seen {
            Seen::Lead { valid: true, draining: false, .. } => Decision::Serve,
            Seen::Lead { valid: true, .. } => Decision::Hold(Refusal::unavailable("this leader is stepping down, and the next one is not known yet")),
            Seen::Lead { .. } => Decision::Hold(Refusal::unavailable("the term of this leader has ended, and the next one is not known yet")),
            Seen::Unknown { reason } => Decision::Hold(Refusal::unavailable(format!("who leads is not known: {reason}"))),
            Seen::Follow { leader } if marks.stay => Decision::Refuse(
                Refusal::unavailable(format!("this instance does not lead, {} does, and the caller does not want to be forwarded", named(leader)))
                    .with_leader(Some(leader)),
            ),
            Seen::Follow { leader } if !leader.authorizes_forwarded => {
                let refusal = Refusal::unavailable(format!("{} leads, and does not take forwarded calls: call it directly", named(leader)))
                    .with_leader(Some(leader));
                // Its address may still be found.
                if leader.addresses.is_empty() { Decision::Hold(refusal) } else { Decision::Refuse(refusal) }
            }
            Seen::Follow { .. } => Decision::Forward,
        },
    }
}

fn not_leader(seen: Seen<'_>) -> Refusal {
    match seen {
        Seen::Unknown { reason } => Refusal::unavailable(format!(
            "a call was forwarded to this instance, which does not know who leads: {reason}"
        ))
        .not_run("not-leader"),
        Seen::Lead {
            valid: true,
            draining: true,
            ..
        } => {
            Refusal::unavailable("a call was forwarded to this leader, which is stepping down").not_run("stepping-down")
        }
        Seen::Lead { .. } => {
            Refusal::unavailable("a call was forwarded to this instance for a term that is not its own")
                .not_run("other-term")
        }
        Seen::Follow { leader } => Refusal::unavailable(format!(
            "a call was forwarded to this instance, which does not lead: {} does",
            named(leader)
        ))
        .with_leader(Some(leader))
        .not_run("not-leader"),
    }
}

/// A leader, for a message.
pub(crate) fn named(leader: &Leader) -> String {
    match leader.addresses.first() {
        Some(address) => format!("{} at {address}", leader.node_id),
        None => format!("{}, whose address is not known,", leader.node_id),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use tonic::Code;

    use super::*;
    use crate::marks::mark_forwarded;
    use crate::role::TermId;

    const ME: HeaderValue = HeaderValue::from_static("me");

    fn term(revision: i64) -> TermId {
        TermId {
            lock_key: "/leader/1".into(),
            lock_revision: revision,
        }
    }

    fn leader() -> Leader {
        Leader {
            node_id: "node-2".into(),
            addresses: vec!["127.0.0.1:9".into()],
            authorizes_forwarded: true,
            term: term(7),
        }
    }

    fn forwarded(revision: i64, by: &'static str) -> Marks {
        forwarded_in(Version::OURS, revision, by)
    }

    fn forwarded_in(version: Version, revision: i64, by: &'static str) -> Marks {
        let mut headers = HeaderMap::new();
        mark_forwarded(
            &mut headers,
            version,
            &TermMark::new(&term(revision)),
            &HeaderValue::from_static(by),
            None,
            None,
            None,
        );
        Marks::take(&mut headers)
    }

    fn lead(mark: &TermMark, valid: bool, draining: bool) -> Seen<'_> {
        Seen::Lead {
            term: mark,
            valid,
            draining,
        }
    }

    #[test]
    fn a_clients_call_is_served_forwarded_or_held() {
        let (mark, leader, plain) = (TermMark::new(&term(7)), leader(), Marks::default());
        assert!(matches!(decide(lead(&mark, true, false), &plain, &ME), Decision::Serve));
        assert!(matches!(
            decide(Seen::Follow { leader: &leader }, &plain, &ME),
            Decision::Forward
        ));
        for seen in [
            Seen::Unknown { reason: "a test" },
            lead(&mark, true, true),
            lead(&mark, false, false),
            lead(&mark, false, true),
        ] {
            let Decision::Hold(refusal) = decide(seen, &plain, &ME) else {
                panic!("{seen:?}")
            };
            assert_eq!(refusal.code, Code::Unavailable);
            assert!(refusal.not_run.is_none(), "that is between instances");
        }
    }

    #[test]
    fn who_does_not_want_to_be_forwarded_learns_where_to_go() {
        let leader = leader();
        let marks = Marks {
            stay: true,
            ..Marks::default()
        };
        let Decision::Refuse(refusal) = decide(Seen::Follow { leader: &leader }, &marks, &ME) else {
            panic!()
        };
        assert_eq!(refusal.leader.as_deref(), Some(&leader));
        let mark = TermMark::new(&term(7));
        assert!(matches!(decide(lead(&mark, true, false), &marks, &ME), Decision::Serve));
    }

    #[test]
    fn leader_that_does_not_authorize_callers_gets_no_forwarded_call() {
        let mut leader = Leader {
            authorizes_forwarded: false,
            ..leader()
        };
        let Decision::Refuse(refusal) = decide(Seen::Follow { leader: &leader }, &Marks::default(), &ME) else {
            panic!()
        };
        assert_eq!(
            (refusal.code, refusal.leader.as_deref()),
            (Code::Unavailable, Some(&leader))
        );
        leader.addresses.clear();
        assert!(matches!(
            decide(Seen::Follow { leader: &leader }, &Marks::default(), &ME),
            Decision::Hold(_)
        ));
    }

    #[test]
    fn only_the_leader_of_the_expected_term_serves_a_forwarded_call() {
        let (mark, leader) = (TermMark::new(&term(7)), leader());
        let hop = forwarded(7, "you");
        assert!(matches!(decide(lead(&mark, true, false), &hop, &ME), Decision::Serve));
        let refused = [
            (lead(&mark, true, true), &hop, "stepping-down"),
            (lead(&mark, false, false), &hop, "other-term"),
            (Seen::Unknown { reason: "a test" }, &hop, "not-leader"),
            (Seen::Follow { leader: &leader }, &hop, "not-leader"),
            (lead(&mark, true, false), &forwarded(8, "you"), "other-term"),
            (lead(&mark, true, false), &forwarded(6, "you"), "other-term"),
            (lead(&mark, true, false), &forwarded(7, "me"), "forwarded-to-itself"),
            (
                Seen::Follow { leader: &leader },
                &forwarded(7, "me"),
                "forwarded-to-itself",
            ),
        ];
        for (seen, marks, why) in refused {
            let Decision::Refuse(refusal) = decide(seen, marks, &ME) else {
                panic!("{seen:?}")
            };
            assert_eq!(refusal.not_run, Some(why), "{seen:?}");
            assert_eq!(refusal.code, Code::Unavailable);
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_whoever_leads() {
        let (mark, leader) = (TermMark::new(&term(7)), leader());
        let before = forwarded_in(Version::OLDEST, 7, "you");
        assert!(matches!(
            decide(lead(&mark, true, false), &before, &ME),
            Decision::Serve
        ));
        let mut headers = HeaderMap::new();
        headers.insert("curator-forwarded-term", HeaderValue::from_static("7//leader/1"));
        headers.insert("curator-forwarded-version", HeaderValue::from_static("2"));
        let to_come = Marks::take(&mut headers);
        for seen in [
            lead(&mark, true, false),
            lead(&mark, true, true),
            Seen::Unknown { reason: "a test" },
            Seen::Follow { leader: &leader },
        ] {
            let Decision::Refuse(refusal) = decide(seen, &to_come, &ME) else {
                panic!("{seen:?}")
            };
            assert_eq!(refusal.not_run, Some("version"));
        }
    }
}
