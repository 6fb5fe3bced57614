//! Whether members that answer nothing of weight are there and have no quorum.
//!
//! Without a quorum a member holds a linearizable read until the read's time is up, as one does that hangs. But it still tells its
//! own status, and names no leader there (`StatusResponse.leader` of etcd's `rpc.proto`).

use std::time::Duration;

use futures::future::join_all;

use super::EtcdStore;
use crate::StoreError;

/// A status costs no consensus: a member that is there tells it at once.
const PATIENCE: Duration = Duration::from_millis(500);
/// What a member names that knows no leader.
const NOBODY: u64 = 0;
/// `ErrGRPCNoLeader` of etcd's `rpctypes/error.go`.
const NO_LEADER: &str = "etcdserver: no leader";

impl EtcdStore {
    /// Why no member has answered a read, if the members themselves can say more than `error` does.
    ///
    /// Does not count as a sign of their health: writes must not be sent to them for it. Cancellation safe.
    pub(super) async fn without_answer(&self, error: StoreError) -> StoreError {
        let members = 0..self.config.endpoints.len();
        let leaders: Vec<_> = join_all(members.map(|member| self.named_leader(member))).await;
        match quorum_is_lost(&leaders) {
            true => StoreError::NoQuorum {
                reason: in_words(&leaders, &error),
            },
            false => error,
        }
    }

    /// Whom a member of the cluster in use takes for etcd's leader.
    async fn named_leader(&self, member: usize) -> Option<u64> {
        let asked = async {
            let mut login = self.clients.get(member).await.ok()?;
            match login.client.status().await {
                Ok(status) => {
                    self.identity.check(member, status.header()).ok()?;
                    Some(status.leader())
                }
                // A client that asks for a leader with each call is told so instead.
                Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains(NO_LEADER) => Some(NOBODY),
                Err(_) => None,
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }
}

/// Some answer, and none of them knows a leader.
fn quorum_is_lost(leaders: &[Option<u64>]) -> bool {
    let mut answers = leaders.iter().flatten().peekable();
    answers.peek().is_some() && answers.all(|leader| *leader == NOBODY)
}

fn in_words(leaders: &[Option<u64>], error: &StoreError) -> String {
    format!(
        "{} of {} etcd endpoints answer, and have no leader among them: start the members that are missing, and look at the \
         network between them ({error})",
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
            // It is cut off, or the election has just ended.
            (&[Some(0), Some(7), None], false),
            // It is busy.
            (&[Some(7)], false),
            (&[None, None, None], false),
            (&[], false),
        ] {
            assert_eq!(quorum_is_lost(leaders), lost, "{leaders:?}");
        }
    }
}
