//! The listener's role: where the leader is, as its value in the election or its node record says.

use std::time::Duration;

use curator_glue::LeaderEndpoint;
pub(crate) use curator_glue::{Roles, public_reason};
use curator_listener::Role;
use curator_proto::private::LeaderElectionValue;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use crate::consensus::ConsensusStatus;
use crate::instance::leader_address::{recorded_host, with_port};
use crate::status::LeaderStatus;

/// The role of an election status.
pub(crate) fn role(status: &LeaderStatus) -> Role {
    curator_glue::role(status, endpoint)
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
pub(crate) async fn publish_roles(
    status: watch::Receiver<LeaderStatus>,
    consensus: watch::Receiver<ConsensusStatus>,
    roles: watch::Sender<Role>,
) {
    let look_up = |node_id: String| {
        let consensus = &consensus;
        async move { look_up(&node_id, consensus).await }
    };
    curator_glue::publish_roles(status, roles, endpoint, look_up).await;
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
    use curator_listener::TermId;
    use prost::Message;

    use super::*;

    #[test]
    fn callers_are_not_told_what_the_store_says_of_itself() {
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
            let Role::Undetermined { reason: told } = role(&ElectionStatus::Undetermined(reason.clone())) else {
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
    fn a_follower_knows_its_leaders_term_and_addresses() {
        let Role::Remote(leader) = role(&following(9)) else {
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
        let (_, consensus) = watch::channel(ConsensusStatus::NotRunning {
            reason: "a test".into(),
        });
        let translating = tokio::spawn(publish_roles(status, consensus, sender));
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

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_does_not_say_where_it_is_is_looked_up() {
        let LeaderStatus::Follower(mut silent) = following(9) else {
            panic!()
        };
        silent.leader.advertised_addresses.clear();
        let (statuses, status) = watch::channel(ElectionStatus::Follower(silent.clone()));
        let (sender, mut roles) = watch::channel(role(&ElectionStatus::Undetermined(Reason::Starting)));
        let store = Arc::new(MemoryCluster::new(1).client(0));
        let (_running, consensus) = watch::channel(ConsensusStatus::Running(store.clone()));
        let translating = tokio::spawn(publish_roles(status, consensus, sender));
        let addresses = |role: &Role| match role {
            Role::Remote(leader) => Some(leader.addresses.clone()),
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
        let Role::Remote(leader) = role else { panic!() };
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
