//! The listener's role: where the leader is, as its value in the election or its node record says.

use std::time::Duration;

use curator_election::Term;
use curator_glue::LeaderEndpoint;
pub(crate) use curator_glue::{Begun, Roles, public_reason};
use curator_listener::Role;
use curator_proto::private::LeaderElectionValue;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::consensus::ConsensusStatus;
use crate::instance::leader_address::{recorded_host, with_port};
use crate::status::LeaderStatus;

/// The role of an election status. `lead` gives the context of a term of this instance.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn role<T>(status: &LeaderStatus, lead: impl FnOnce(&Term) -> T) -> Role<T> {
    curator_glue::role(status, endpoint, lead)
}

/// The leader's endpoint, from its value.
fn endpoint(leader: &LeaderElectionValue) -> LeaderEndpoint {
    let mut endpoint = LeaderEndpoint::new(&leader.node_id, leader.advertised_addresses.iter().cloned());
    // The field exists only in this implementation, and all its versions with the field authorize the caller that a
    // forwarded call names. A Go leader does not know such callers: it authorizes the TLS peer, which would be this
    // instance.
    endpoint.authorizes_forwarded = !leader.advertised_addresses.is_empty();
    endpoint
}

/// The interval at which the address of a leader is looked up that does not advertise one.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes the role for each status, until the status ends. A leader without an advertised address is looked up.
///
/// `begin` is called once for each term of this instance, and makes everything that belongs to it.
pub(crate) async fn publish_roles<T: Clone>(
    status: watch::Receiver<LeaderStatus>,
    consensus: watch::Receiver<ConsensusStatus>,
    roles: watch::Sender<Role<T>>,
    begin: impl FnMut(&Term) -> Result<Begun<T>, String>,
) {
    let look_up = |node_id: String| {
        let consensus = &consensus;
        async move { look_up(&node_id, consensus).await }
    };
    curator_glue::publish_roles(status, roles, endpoint, look_up, begin).await;
}

/// The address of a node, as soon as it is found. Cancellation safe.
async fn look_up(node_id: &str, consensus: &watch::Receiver<ConsensusStatus>) -> String {
    loop {
        let store = match &*consensus.borrow() {
            ConsensusStatus::Running(store) => Some(store.clone()),
            ConsensusStatus::NotRunning { .. } => None,
        };
        if let Some(store) = store {
            match recorded_host(&*store, node_id).await {
                Ok(host) => return with_port(&host),
                Err(error) => {
                    debug!(node_id, %error, "the leader advertises no address and has none in its node record");
                }
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use curator_election::clock::{Clock, TokioClock};
    use curator_election::memory::MemoryCluster;
    use curator_election::store::{Op, Revision, Store, Txn};
    use curator_election::{ElectionStatus, LeaderInfo, Reason, Term};
    use curator_listener::{LeaderTerm, TermId};
    use prost::Message;

    use super::*;

    fn undetermined<T>(reason: &Reason) -> Role<T> {
        Role::Undetermined {
            reason: public_reason(reason),
        }
    }

    #[test]
    fn public_reason_hides_store_errors() {
        let inside = || "https://10.0.0.7:2379: x509: /etc/etcd/key.pem".to_owned();
        for reason in [
            Reason::OpenFailed {
                word: "permission",
                error: inside(),
            },
            Reason::CampaignFailed {
                word: "no_answer",
                error: inside(),
            },
            Reason::Undecodable(inside()),
        ] {
            let Role::Undetermined { reason: told } = role(&ElectionStatus::Undetermined(reason.clone()), |_| ())
            else {
                panic!("{reason}")
            };
            assert!(!told.contains("10.0.0.7") && !told.contains("key.pem"), "{told}");
        }
        assert_eq!(public_reason(&Reason::NoLeader), "no candidate leads");
    }

    fn following(revision: i64) -> LeaderStatus {
        let leader = LeaderElectionValue {
            node_id: "node-2".into(),
            ttl: 10,
            advertised_addresses: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()],
            ..Default::default()
        };
        ElectionStatus::Follower(LeaderInfo {
            leader,
            key: "/leader/a".into(),
            revision: Revision(revision),
        })
    }

    #[test]
    fn follower_role_has_term_and_addresses_of_leader() {
        let Role::Follower(leader) = role(&following(9), |_| ()) else {
            panic!()
        };
        assert_eq!(leader.node_id, "node-2");
        assert_eq!(leader.addresses, ["127.0.0.1:1", "127.0.0.1:2"]);
        assert!(leader.authorizes_forwarded);
        assert_eq!(
            leader.term,
            TermId {
                lock_key: "/leader/a".into(),
                lock_revision: 9
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn guard_ends_with_its_term() {
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(5);
        let (_keeper, term) = Term::for_test("/leader/a", Revision(9), until, clock);
        let Role::Leader(LeaderTerm { guard, .. }) = role(&ElectionStatus::Leader(term), |_| ()) else {
            panic!()
        };
        assert!(guard.0.is_valid());
        tokio::time::timeout(Duration::from_secs(6), guard.0.ended())
            .await
            .expect("by its deadline");
        assert!(!guard.0.is_valid());
    }

    /// Waits with a timeout. The clock is paused, so that a wait for nothing ends at once.
    async fn in_time<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), what)
            .await
            .expect("in time")
    }

    /// For an instance that never leads.
    fn no_term(_: &Term) -> Result<Begun<()>, String> {
        Err("this instance does not lead in this test".into())
    }

    fn term_of(revision: i64) -> (curator_election::TermOwner, Term) {
        let clock = Arc::new(TokioClock::new());
        let until = clock.now() + Duration::from_secs(5);
        Term::for_test("/leader/a", Revision(revision), until, clock)
    }

    /// The context of a term, and whether its work still runs.
    type Context = (i64, Arc<()>);

    fn context(role: &Role<Context>) -> Option<i64> {
        match role {
            Role::Leader(term) => Some(term.context.0),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_term_begins_once_and_its_role_carries_what_was_made_for_it() {
        let (statuses, status) = watch::channel(following(1));
        let (sender, mut roles) = watch::channel::<Role<Context>>(undetermined(&Reason::Starting));
        let (_, consensus) = watch::channel(ConsensusStatus::NotRunning {
            reason: "a test".into(),
        });
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let mut known = Vec::new();
        let publishing = tokio::spawn(publish_roles(status, consensus, sender, move |term: &Term| {
            assert!(!known.contains(term), "{term:?} begins twice");
            known.push(term.clone());
            let alive = Arc::new(());
            begun
                .send((term.clone(), Arc::downgrade(&alive)))
                .expect("the test goes on");
            let (term, revision, working) = (term.clone(), term.lock_revision().0, alive.clone());
            let work = Box::pin(async move {
                term.ended().await;
                drop(working);
            });
            Ok(Begun {
                context: (revision, alive),
                work,
            })
        }));
        let (first_owner, first) = term_of(2);
        statuses.send_replace(ElectionStatus::Leader(first.clone()));
        in_time(roles.wait_for(|role| context(role) == Some(2))).await.unwrap();
        let (term, alive) = in_time(begins.recv()).await.expect("begun");
        assert_eq!(term, first);
        assert_eq!(
            alive.strong_count(),
            3,
            "the work, the role and the copy for the next status"
        );

        // Another status of the same term begins nothing. A term that has ended leaves nothing behind, even if the
        // status still reports it.
        statuses.send_replace(ElectionStatus::Leader(first.clone()));
        drop(first_owner);
        let over = |role: &Role<Context>| matches!(role, Role::Undetermined { .. });
        in_time(roles.wait_for(over)).await.unwrap();
        assert_eq!(alive.strong_count(), 0);
        statuses.send_replace(ElectionStatus::Leader(first));

        // The watch may miss what was between two terms. The lock key may be the same.
        let (_owner, second) = term_of(3);
        statuses.send_replace(ElectionStatus::Leader(second.clone()));
        in_time(roles.wait_for(|role| context(role) == Some(3))).await.unwrap();
        assert_eq!(in_time(begins.recv()).await.expect("begun").0, second);
        drop(statuses);
        in_time(publishing).await.unwrap();
        assert!(in_time(begins.recv()).await.is_none(), "two terms, two beginnings");
    }

    #[tokio::test(start_paused = true)]
    async fn term_that_cannot_begin_is_undetermined_with_the_reason() {
        let (_owner, term) = term_of(2);
        let (statuses, status) = watch::channel(ElectionStatus::Leader(term));
        let (sender, mut roles) = watch::channel::<Role>(undetermined(&Reason::Starting));
        let (_, consensus) = watch::channel(ConsensusStatus::NotRunning {
            reason: "a test".into(),
        });
        let publishing = tokio::spawn(publish_roles(status, consensus, sender, no_term));
        let reason = "this instance does not lead in this test";
        let told = |role: &Role| matches!(role, Role::Undetermined { reason: found } if found == reason);
        in_time(roles.wait_for(told)).await.unwrap();
        drop(statuses);
        in_time(publishing).await.unwrap();
    }

    #[tokio::test]
    async fn unchanged_status_publishes_no_role() {
        let (statuses, status) = watch::channel(following(9));
        let (sender, mut roles) = watch::channel(undetermined(&Reason::Starting));
        let (_, consensus) = watch::channel(ConsensusStatus::NotRunning {
            reason: "a test".into(),
        });
        let translating = tokio::spawn(publish_roles(status, consensus, sender, no_term));
        roles.changed().await.unwrap();
        assert!(matches!(*roles.borrow_and_update(), Role::Follower(_)));
        statuses.send_replace(following(9));
        statuses.send_replace(following(10));
        roles.changed().await.unwrap();
        let Role::Follower(leader) = roles.borrow_and_update().clone() else {
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

    #[tokio::test(start_paused = true)]
    async fn leader_without_advertised_address_is_looked_up() {
        let LeaderStatus::Follower(mut silent) = following(9) else {
            panic!()
        };
        silent.leader.advertised_addresses.clear();
        let (statuses, status) = watch::channel(ElectionStatus::Follower(silent.clone()));
        let (sender, mut roles) = watch::channel(undetermined(&Reason::Starting));
        let store = Arc::new(MemoryCluster::new(1).client(0));
        let (_running, consensus) = watch::channel(ConsensusStatus::Running(store.clone()));
        let translating = tokio::spawn(publish_roles(status, consensus, sender, no_term));
        let addresses = |role: &Role| match role {
            Role::Follower(leader) => Some(leader.addresses.clone()),
            _ => None,
        };
        // Calls wait for it; it is not unknown who leads.
        roles
            .wait_for(|role| addresses(role) == Some(Vec::new()))
            .await
            .unwrap();
        let node = curator_proto::private::Node {
            status: Some(curator_proto::common::NodeStatus {
                external_address: "10.0.0.2".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let put = Txn {
            success: vec![Op::put("/nodes/node-2", node.encode_to_vec())],
            ..Txn::default()
        };
        store.txn(put).await.expect("no faults");
        let known = Some(vec!["10.0.0.2:7835".to_owned()]);
        let role = roles.wait_for(|role| addresses(role) == known).await.unwrap().clone();
        let Role::Follower(leader) = role else { panic!() };
        assert!(!leader.authorizes_forwarded, "it may be a Go leader");
        // News that say the same do not send anybody looking again.
        roles.mark_unchanged();
        statuses.send_replace(ElectionStatus::Follower(silent));
        statuses.send_replace(ElectionStatus::Undetermined(Reason::NoLeader));
        roles.changed().await.unwrap();
        assert!(matches!(*roles.borrow_and_update(), Role::Undetermined { .. }));
        drop(statuses);
        translating.await.unwrap();
    }
}
