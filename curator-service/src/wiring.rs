//! The election's status as the listener's role: the one place that knows both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use curator_election::{ElectionStatus, Term};
use curator_listener::{Leader, Role, SharedGuard, StatusStream, TermGuard, TermId};
use tokio::sync::watch;

use crate::service::LeaderStatus;

/// The role by an election status.
pub(crate) fn role(status: &LeaderStatus) -> Role {
    match status {
        ElectionStatus::Undetermined(reason) => Role::Undetermined {
            reason: reason.to_string(),
        },
        ElectionStatus::Follower(following) => Role::Remote(Leader {
            node_id: following.leader.node_id.clone(),
            addresses: following.leader.advertised_addresses.clone(),
            term: TermId {
                lock_key: String::from_utf8_lossy(&following.key).into_owned(),
                lock_revision: following.revision.0,
            },
        }),
        ElectionStatus::Leader(term) => Role::Local {
            term: TermId {
                lock_key: String::from_utf8_lossy(term.lock_key()).into_owned(),
                lock_revision: term.lock_revision().0,
            },
            guard: SharedGuard(Arc::new(Guard(term.clone()))),
        },
    }
}

struct Guard(Term);

#[async_trait]
impl TermGuard for Guard {
    fn is_valid(&self) -> bool {
        self.0.is_valid()
    }

    fn remaining(&self) -> Duration {
        self.0.remaining()
    }

    async fn ended(&self) {
        self.0.ended().await;
    }
}

/// The roles that [`translate`] publishes.
pub(crate) struct Roles(pub(crate) watch::Receiver<Role>);

impl StatusStream for Roles {
    fn subscribe(&self) -> watch::Receiver<Role> {
        self.0.clone()
    }
}

/// Publishes the role for each status, until the status ends.
pub(crate) async fn translate(mut status: watch::Receiver<LeaderStatus>, roles: watch::Sender<Role>) {
    loop {
        let newest = role(&status.borrow_and_update());
        // What changes nothing that matters must not disturb anybody.
        roles.send_if_modified(|known| {
            let changed = *known != newest;
            *known = newest;
            changed
        });
        if status.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use curator_election::clock::{Clock, TokioClock};
    use curator_election::store::Revision;
    use curator_election::{Following, Reason};
    use curator_proto::private::LeaderElectionValue;

    use super::*;

    fn following(revision: i64) -> LeaderStatus {
        let leader = LeaderElectionValue {
            node_id: "node-2".into(),
            ttl: 10,
            advertised_addresses: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()],
        };
        ElectionStatus::Follower(Following {
            leader,
            key: "/leader/a".into(),
            revision: Revision(revision),
        })
    }

    #[test]
    fn a_follower_knows_its_leaders_term_and_addresses() {
        let Role::Remote(leader) = role(&following(9)) else {
            panic!()
        };
        assert_eq!(leader.node_id, "node-2");
        assert_eq!(leader.addresses, ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(
            leader.term,
            TermId {
                lock_key: "/leader/a".into(),
                lock_revision: 9
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaders_guard_ends_with_its_term() {
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(5);
        let (_keeper, term) = Term::for_test("/leader/a", Revision(9), until, clock);
        let Role::Local { guard, .. } = role(&ElectionStatus::Leader(term)) else {
            panic!()
        };
        assert!(guard.0.is_valid());
        tokio::time::timeout(Duration::from_secs(6), guard.0.ended())
            .await
            .expect("by its deadline");
        assert!(!guard.0.is_valid());
    }

    #[tokio::test]
    async fn a_status_that_changes_nothing_disturbs_nobody() {
        let (statuses, status) = watch::channel(following(9));
        let (sender, mut roles) = watch::channel(role(&ElectionStatus::Undetermined(Reason::Starting)));
        let translating = tokio::spawn(translate(status, sender));
        roles.changed().await.unwrap();
        assert!(matches!(*roles.borrow_and_update(), Role::Remote(_)));
        statuses.send_replace(following(9));
        statuses.send_replace(following(10));
        roles.changed().await.unwrap();
        let Role::Remote(leader) = roles.borrow_and_update().clone() else {
            panic!()
        };
        assert_eq!(leader.term.lock_revision, 10);
        drop(statuses);
        translating.await.unwrap();
        assert!(
            roles.changed().await.is_err(),
            "one change for two statuses of which one was new"
        );
    }
}
