//! The rules that decide what happens to a call for the leader. No I/O.

use http::HeaderValue;

use crate::call::refusal::Refusal;
use crate::headers::{ForwardingHeaders, Hop, TermHeader};
use crate::protocol::{self, ForwardProtocol};
use crate::role::Leader;

/// The current route, as far as the rules need it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RouteView<'a> {
    /// The leader is not known.
    Undetermined { reason: &'a str },
    /// This instance is the leader, and its services could not be made.
    Failed { reason: &'a str },
    /// This instance is the leader.
    Leader {
        term: &'a TermHeader,
        /// Whether the term is valid at this moment.
        valid: bool,
        /// The term is suspended: new calls wait.
        suspended: bool,
        /// The leader is stepping down and accepts no new calls.
        draining: bool,
    },
    /// Another instance is the leader.
    Follower { leader: &'a Leader },
}

/// What to do with a call.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Serve it on this instance.
    ServeLocally,
    /// Forward it to the leader.
    Forward,
    /// Queue it until a leader is known. The refusal is returned if none is known in time.
    Queue(Refusal),
    /// Refuse it.
    Refuse(Refusal),
}

/// Applies the rules. `me` identifies this process in the forwarding headers.
pub(crate) fn decide(view: RouteView<'_>, headers: &ForwardingHeaders, me: &HeaderValue) -> Decision {
    match &headers.hop {
        Some(hop) => decide_forwarded(view, hop, me),
        None => decide_direct(view, headers.no_forward),
    }
}

/// A call that another instance has forwarded. Calls are forwarded once only: the sender waits until it, or this
/// instance, observes the next leader.
fn decide_forwarded(view: RouteView<'_>, hop: &Hop, me: &HeaderValue) -> Decision {
    if hop.is_from(me) {
        let message = "forwarding loop: the election names the address of this instance as that of another leader";
        return Decision::Refuse(Refusal::unavailable(message).not_run("forwarded-to-itself"));
    }
    // The other headers may have another meaning in an unsupported version, so none of them is used.
    if let Err(unsupported) = ForwardProtocol::check(hop.version()) {
        return Decision::Refuse(Refusal::unavailable(unsupported.to_string()).not_run(protocol::REFUSED));
    }
    match view {
        RouteView::Leader {
            term,
            valid: true,
            suspended: false,
            draining: false,
        } if hop.is_for(term) => Decision::ServeLocally,
        view => Decision::Refuse(not_leader(view)),
    }
}

/// A call of a client.
fn decide_direct(view: RouteView<'_>, no_forward: bool) -> Decision {
    let queue = |message: String| Decision::Queue(Refusal::unavailable(message));
    match view {
        RouteView::Leader {
            valid: true,
            suspended: false,
            draining: false,
            ..
        } => Decision::ServeLocally,
        RouteView::Leader {
            valid: true,
            draining: true,
            ..
        } => queue("this leader is stepping down, and the next leader is not known yet".to_owned()),
        RouteView::Leader { valid: true, .. } => {
            queue("the term of this leader is suspended: the store has not confirmed it".to_owned())
        }
        RouteView::Leader { .. } => {
            queue("the term of this leader has ended, and the next leader is not known yet".to_owned())
        }
        RouteView::Undetermined { reason } => queue(format!("the leader is not known: {reason}")),
        RouteView::Failed { reason } => queue(format!("this leader cannot serve: {reason}")),
        RouteView::Follower { leader } if no_forward => {
            let message = format!(
                "this instance is not the leader, and the caller set curator-no-forward; the leader is {}",
                named(leader)
            );
            Decision::Refuse(Refusal::unavailable(message).with_leader(Some(leader)))
        }
        RouteView::Follower { leader } if !leader.authorizes_forwarded => {
            let message = format!(
                "the leader {} does not accept forwarded calls: call it directly",
                named(leader)
            );
            let refusal = Refusal::unavailable(message).with_leader(Some(leader));
            if leader.addresses.is_empty() {
                // The address may still become known.
                Decision::Queue(refusal)
            } else {
                Decision::Refuse(refusal)
            }
        }
        RouteView::Follower { .. } => Decision::Forward,
    }
}

/// Why a forwarded call is refused that this instance cannot serve.
fn not_leader(view: RouteView<'_>) -> Refusal {
    match view {
        RouteView::Undetermined { reason } => Refusal::unavailable(format!(
            "a call was forwarded to this instance, which does not know the leader: {reason}"
        ))
        .not_run("not-leader"),
        RouteView::Failed { reason } => Refusal::unavailable(format!(
            "a call was forwarded to this leader, which cannot serve: {reason}"
        ))
        .not_run("cannot-serve"),
        RouteView::Leader {
            valid: true,
            draining: true,
            ..
        } => {
            Refusal::unavailable("a call was forwarded to this leader, which is stepping down").not_run("stepping-down")
        }
        // The forwarding instance holds the call, and sends it again if this leader stays.
        RouteView::Leader {
            valid: true,
            suspended: true,
            ..
        } => Refusal::unavailable("a call was forwarded to this leader, whose term is suspended").not_run("suspended"),
        RouteView::Leader { .. } => {
            Refusal::unavailable("a call was forwarded to this instance for another term").not_run("other-term")
        }
        RouteView::Follower { leader } => Refusal::unavailable(format!(
            "a call was forwarded to this instance, which is not the leader; the leader is {}",
            named(leader)
        ))
        .with_leader(Some(leader))
        .not_run("not-leader"),
    }
}

/// Describes a leader in a message.
pub(crate) fn named(leader: &Leader) -> String {
    match leader.addresses.first() {
        Some(address) => format!("{} at {address}", leader.node_id),
        None => format!("{} (address unknown)", leader.node_id),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use tonic::Code;

    use super::*;
    use crate::headers::mark_forwarded;
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

    fn forwarded(revision: i64, by: &'static str) -> ForwardingHeaders {
        forwarded_in(ForwardProtocol::OURS, revision, by)
    }

    fn forwarded_in(version: ForwardProtocol, revision: i64, by: &'static str) -> ForwardingHeaders {
        let mut headers = HeaderMap::new();
        mark_forwarded(
            &mut headers,
            version,
            &TermHeader::new(&term(revision)),
            &HeaderValue::from_static(by),
            None,
            None,
            None,
        );
        ForwardingHeaders::take(&mut headers)
    }

    fn leader_view(term: &TermHeader, valid: bool, draining: bool) -> RouteView<'_> {
        RouteView::Leader {
            term,
            valid,
            suspended: false,
            draining,
        }
    }

    fn suspended_view(term: &TermHeader) -> RouteView<'_> {
        RouteView::Leader {
            term,
            valid: true,
            suspended: true,
            draining: false,
        }
    }

    #[test]
    fn a_clients_call_is_served_forwarded_or_held() {
        let (term, leader, plain) = (TermHeader::new(&term(7)), leader(), ForwardingHeaders::default());
        assert!(matches!(
            decide(leader_view(&term, true, false), &plain, &ME),
            Decision::ServeLocally
        ));
        assert!(matches!(
            decide(RouteView::Follower { leader: &leader }, &plain, &ME),
            Decision::Forward
        ));
        for view in [
            RouteView::Undetermined { reason: "a test" },
            leader_view(&term, true, true),
            leader_view(&term, false, false),
            leader_view(&term, false, true),
            suspended_view(&term),
        ] {
            let Decision::Queue(refusal) = decide(view, &plain, &ME) else {
                panic!("{view:?}")
            };
            assert_eq!(refusal.code, Code::Unavailable);
            assert!(refusal.not_run.is_none(), "that is between instances");
        }
    }

    #[test]
    fn who_does_not_want_to_be_forwarded_learns_where_to_go() {
        let leader = leader();
        let headers = ForwardingHeaders {
            no_forward: true,
            ..ForwardingHeaders::default()
        };
        let Decision::Refuse(refusal) = decide(RouteView::Follower { leader: &leader }, &headers, &ME) else {
            panic!()
        };
        assert_eq!(refusal.leader.as_deref(), Some(&leader));
        let term = TermHeader::new(&term(7));
        assert!(matches!(
            decide(leader_view(&term, true, false), &headers, &ME),
            Decision::ServeLocally
        ));
    }

    #[test]
    fn leader_that_does_not_authorize_callers_gets_no_forwarded_call() {
        let mut leader = Leader {
            authorizes_forwarded: false,
            ..leader()
        };
        let Decision::Refuse(refusal) = decide(
            RouteView::Follower { leader: &leader },
            &ForwardingHeaders::default(),
            &ME,
        ) else {
            panic!()
        };
        assert_eq!(
            (refusal.code, refusal.leader.as_deref()),
            (Code::Unavailable, Some(&leader))
        );
        leader.addresses.clear();
        assert!(matches!(
            decide(
                RouteView::Follower { leader: &leader },
                &ForwardingHeaders::default(),
                &ME
            ),
            Decision::Queue(_)
        ));
    }

    #[test]
    fn only_the_leader_of_the_expected_term_serves_a_forwarded_call() {
        let (term, leader) = (TermHeader::new(&term(7)), leader());
        let hop = forwarded(7, "you");
        assert!(matches!(
            decide(leader_view(&term, true, false), &hop, &ME),
            Decision::ServeLocally
        ));
        let refused = [
            (leader_view(&term, true, true), &hop, "stepping-down"),
            (leader_view(&term, false, false), &hop, "other-term"),
            (suspended_view(&term), &hop, "suspended"),
            (RouteView::Undetermined { reason: "a test" }, &hop, "not-leader"),
            (RouteView::Follower { leader: &leader }, &hop, "not-leader"),
            (leader_view(&term, true, false), &forwarded(8, "you"), "other-term"),
            (leader_view(&term, true, false), &forwarded(6, "you"), "other-term"),
            (
                leader_view(&term, true, false),
                &forwarded(7, "me"),
                "forwarded-to-itself",
            ),
            (
                RouteView::Follower { leader: &leader },
                &forwarded(7, "me"),
                "forwarded-to-itself",
            ),
        ];
        for (view, headers, why) in refused {
            let Decision::Refuse(refusal) = decide(view, headers, &ME) else {
                panic!("{view:?}")
            };
            assert_eq!(refusal.not_run, Some(why), "{view:?}");
            assert_eq!(refusal.code, Code::Unavailable);
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_refused_whoever_leads() {
        let (term, leader) = (TermHeader::new(&term(7)), leader());
        let before = forwarded_in(ForwardProtocol::OLDEST, 7, "you");
        assert!(matches!(
            decide(leader_view(&term, true, false), &before, &ME),
            Decision::ServeLocally
        ));
        let mut headers = HeaderMap::new();
        headers.insert("curator-forwarded-term", HeaderValue::from_static("7//leader/1"));
        headers.insert("curator-forwarded-version", HeaderValue::from_static("2"));
        let to_come = ForwardingHeaders::take(&mut headers);
        for view in [
            leader_view(&term, true, false),
            leader_view(&term, true, true),
            RouteView::Undetermined { reason: "a test" },
            RouteView::Follower { leader: &leader },
        ] {
            let Decision::Refuse(refusal) = decide(view, &to_come, &ME) else {
                panic!("{view:?}")
            };
            assert_eq!(refusal.not_run, Some("version"));
        }
    }
}
