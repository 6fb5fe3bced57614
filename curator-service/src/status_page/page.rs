//! The status page and its data.

use std::time::Duration;

use curator_election::ElectionStatus;
use curator_election::clock::Instant;
use serde_json::{Value, json};

use crate::status::{LeaderStatus, inactive_reason};
use crate::status_page::term_history::TermHistory;

/// Shows [`status`], which it polls.
pub(super) const HTML: &str = include_str!("page.html");

/// The data of the page as JSON. Times are in milliseconds before now.
pub(super) fn status(own_id: &str, status: &LeaderStatus, ready: bool, terms: &TermHistory, now: Instant) -> Value {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let ago = |then: Instant| milliseconds(now.saturating_since(then));
    // For how long the store has confirmed the term already.
    let confirmed = match status {
        ElectionStatus::Leader(term) => term.confirmed_until(),
        _ => None,
    };
    let (role, leader, address, revision, left, reason) = match status {
        ElectionStatus::Leader(term) => match inactive_reason(term) {
            None => (
                "leader",
                Some(own_id.to_owned()),
                None,
                Some(term.lock_revision().0),
                Some(milliseconds(term.remaining())),
                None,
            ),
            Some(reason) => ("undetermined", None, None, None, None, Some(reason.to_owned())),
        },
        ElectionStatus::Follower(following) => (
            "follower",
            Some(following.leader.node_id.clone()),
            following.leader.advertised_addresses.first().cloned(),
            Some(following.revision.0),
            None,
            None,
        ),
        ElectionStatus::Undetermined(reason) => ("undetermined", None, None, None, None, Some(reason.to_string())),
    };
    let terms: Vec<Value> = terms
        .newest_first()
        .into_iter()
        .map(|seen| {
            json!({
                "leader": seen.leader,
                "lock_revision": seen.revision,
                "from_ms_ago": ago(seen.from),
                "to_ms_ago": seen.to.map(ago),
                "leaderless_before_ms": seen.after.map(|after| after.as_millis().min(u128::from(u64::MAX)) as u64),
            })
        })
        .collect();
    json!({
        "node_id": own_id,
        "version": env!("CARGO_PKG_VERSION"),
        "commit": crate::COMMIT,
        "role": role,
        "reason": reason,
        "leader": leader,
        "leader_address": address,
        "lock_revision": revision,
        "remaining_ms": left,
        "confirmed_ms": confirmed.map(|until| milliseconds(until.saturating_since(now))),
        "ready": ready,
        "terms": terms,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use curator_election::clock::{Clock, TokioClock};
    use curator_election::store::Revision;
    use curator_election::{Reason, Term};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_shows_what_is_left_of_its_term() {
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(5);
        let (term_owner, term) = Term::for_test("/leader/1", Revision(9), until, clock.clone());
        let (leads, terms) = (ElectionStatus::Leader(term), TermHistory::default());
        terms.note("me", &leads, clock.now());
        tokio::time::advance(Duration::from_secs(1)).await;
        let shown = status("me", &leads, true, &terms, clock.now());
        assert_eq!(shown["role"], "leader");
        assert_eq!(shown["remaining_ms"], 4_000);
        assert_eq!(shown["terms"][0]["from_ms_ago"], 1_000);
        assert_eq!(shown["confirmed_ms"], Value::Null);
        // A suspended term is not shown as leading, and says why.
        assert!(term_owner.confirm(clock.now() + Duration::from_millis(900)));
        assert_eq!(status("me", &leads, true, &terms, clock.now())["confirmed_ms"], 900);
        tokio::time::advance(Duration::from_secs(1)).await;
        let shown = status("me", &leads, true, &terms, clock.now());
        assert_eq!(
            (&shown["role"], &shown["confirmed_ms"]),
            (&json!("undetermined"), &json!(0))
        );
        assert!(shown["reason"].as_str().unwrap().contains("suspended"), "{shown}");
        // A term that has ended is not shown as leading, even if the status still names it.
        term_owner.end();
        assert_eq!(status("me", &leads, true, &terms, clock.now())["role"], "undetermined");
        let nobody = ElectionStatus::Undetermined(Reason::NoLeader);
        let shown = status("me", &nobody, false, &terms, clock.now());
        assert_eq!(
            (&shown["reason"], &shown["ready"]),
            (&json!("no candidate leads"), &json!(false))
        );
    }

    /// The page loads nothing from other hosts.
    #[test]
    fn the_page_is_whole() {
        for beyond in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!HTML.contains(beyond), "{beyond}");
        }
        assert!(HTML.contains("status.json"));
    }
}
