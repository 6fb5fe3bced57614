//! Detects a lost quorum when no member answers a read.
//!
//! Without a quorum a member holds a linearizable read until its deadline, as a hung member does. But it still answers
//! a status request, and reports no leader there (`StatusResponse.leader` of etcd's `rpc.proto`).

use std::time::Duration;

use futures::future::join_all;

use super::EtcdStore;
use crate::StoreError;

/// The timeout of a status request, which needs no consensus.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// The leader id that a member reports when it knows no leader.
const NO_LEADER_ID: u64 = 0;
/// `ErrGRPCNoLeader` of etcd's `rpctypes/error.go`.
const NO_LEADER: &str = "etcdserver: no leader";

impl EtcdStore {
    /// Replaces `error`, of a read that no member answered, by [`StoreError::NoQuorum`] if the members report no
    /// leader.
    ///
    /// The status requests do not count for the members' health: they do not prove that a write succeeds. Cancellation
    /// safe.
    pub(super) async fn without_answer(&self, error: StoreError) -> StoreError {
        let members = 0..self.config.endpoints.len();
        let leaders: Vec<_> = join_all(members.map(|member| self.named_leader(member))).await;
        if quorum_is_lost(&leaders) {
            StoreError::NoQuorum {
                reason: in_words(&leaders, &error),
            }
        } else {
            error
        }
    }

    /// The etcd leader that a member of the cluster in use reports.
    async fn named_leader(&self, member: usize) -> Option<u64> {
        let asked = async {
            let mut login = self.clients.get(member).await.ok()?;
            match login.client.status().await {
                Ok(status) => {
                    self.identity.check(member, status.header()).ok()?;
                    Some(status.leader())
                }
                // A client that requires a leader for each call gets this error instead.
                Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains(NO_LEADER) => {
                    Some(NO_LEADER_ID)
                }
                Err(_) => None,
            }
        };
        tokio::time::timeout(STATUS_TIMEOUT, asked).await.ok().flatten()
    }
}

/// Whether some members respond and none of them reports a leader.
fn quorum_is_lost(leaders: &[Option<u64>]) -> bool {
    let mut answers = leaders.iter().flatten().peekable();
    answers.peek().is_some() && answers.all(|leader| *leader == NO_LEADER_ID)
}

fn in_words(leaders: &[Option<u64>], error: &StoreError) -> String {
    format!(
        "{} of {} etcd endpoints respond, without an etcd leader: start the missing members, and check the network \
         between them ({error})",
        leaders.iter().flatten().count(),
        leaders.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_is_lost_when_all_who_answer_say_so() {
        for (leaders, lost) in [
            (&[Some(0), None, None][..], true),
            (&[Some(0), Some(0), None], true),
            // The member is cut off, or etcd's election has just ended.
            (&[Some(0), Some(7), None], false),
            // The member is busy.
            (&[Some(7)], false),
            (&[None, None, None], false),
            (&[], false),
        ] {
            assert_eq!(quorum_is_lost(leaders), lost, "{leaders:?}");
        }
    }
}
