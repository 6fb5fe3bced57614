//! The membership and status of the etcd cluster.

use super::errors::Call;
use super::{EtcdStore, StoreError};

/// A member of an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdMember {
    /// The member id.
    pub id: u64,
    /// The member's name; empty until it has started once.
    pub name: String,
    /// The peer URLs.
    pub peer_urls: Vec<String>,
    /// Whether it is a learner, without a vote.
    pub learner: bool,
}

impl EtcdStore {
    /// The members of the cluster. Cancellation safe.
    ///
    /// # Errors
    /// If etcd does not respond.
    pub async fn members(&self) -> Result<Vec<EtcdMember>, StoreError> {
        // The list goes through consensus, so it is up to date.
        let member = self.writable().await?;
        let list = self
            .call(member, Call::Read, (), |mut client, ()| async move {
                client.member_list().await
            })
            .await?;
        let members = list.members().iter().map(|member| EtcdMember {
            id: member.id(),
            name: member.name().to_owned(),
            peer_urls: member.peer_urls().to_vec(),
            learner: member.is_learner(),
        });
        Ok(members.collect())
    }

    /// Adds a learner, which gets a vote when it is [promoted](Self::promote_member).
    ///
    /// Cancellation: it may have been added or not.
    ///
    /// # Errors
    /// If etcd rejects it, for instance while there is another learner, or does not respond.
    pub async fn add_learner(&self, peer_url: &str) -> Result<(), StoreError> {
        let urls = [peer_url.to_owned()];
        let member = self.writable().await?;
        self.call(member, Call::Write(None), urls, |mut client, urls| async move {
            let options = etcd_client::MemberAddOptions::new().with_is_learner();
            client.member_add(urls, Some(options)).await.map(drop)
        })
        .await
    }

    /// Promotes a learner to a voting member.
    ///
    /// Cancellation: it may have been promoted or not.
    ///
    /// # Errors
    /// If etcd rejects it, for instance while the learner has not caught up, or does not respond.
    pub async fn promote_member(&self, id: u64) -> Result<(), StoreError> {
        let member = self.writable().await?;
        self.call(member, Call::Write(None), (), |mut client, ()| async move {
            client.member_promote(id).await.map(drop)
        })
        .await
    }

    /// Removes a member. If it is etcd's leader, the leadership is first moved to another responding member. Otherwise
    /// the others would have to detect the loss of the leader, and no call succeeds until then, which can end a Curator
    /// term.
    ///
    /// Cancellation: it may have been removed or not.
    ///
    /// # Errors
    /// If etcd rejects it, for instance if the rest would have no quorum, or does not respond.
    pub async fn remove_member(&self, id: u64) -> Result<(), StoreError> {
        self.lead_elsewhere(id).await;
        let member = self.writable().await?;
        self.call(member, Call::Write(None), (), |mut client, ()| async move {
            client.member_remove(id).await.map(drop)
        })
        .await
    }

    /// Moves etcd's leadership to another member if this one has it. A failure only slows down the removal.
    async fn lead_elsewhere(&self, id: u64) {
        let (all, statuses) = futures::future::join(self.members(), self.endpoints()).await;
        let Ok(all) = all else { return };
        let answering = statuses.into_iter().map(|(_, status)| status.ok()).collect::<Vec<_>>();
        let Some((endpoint, next)) = successor(id, &answering, &all) else {
            return;
        };
        let moved = self
            .call(endpoint, Call::Write(None), (), |mut client, ()| async move {
                client.move_leader(next).await.map(drop)
            })
            .await;
        match moved {
            Ok(()) => {
                tracing::info!("moved the etcd leadership from member {id:x}, which is to be removed, to {next:x}");
            }
            Err(error) => {
                tracing::warn!(
                    "cannot move the etcd leadership from member {id:x}, which is to be removed, to {next:x}: {error}"
                );
            }
        }
    }
}

/// If the member is etcd's leader: its endpoint, and the member to move the leadership to.
fn successor(id: u64, endpoints: &[Option<EndpointStatus>], members: &[EtcdMember]) -> Option<(usize, u64)> {
    let led = |status: &Option<EndpointStatus>| {
        status
            .as_ref()
            .is_some_and(|status| status.member_id == id && status.leads)
    };
    let endpoint = endpoints.iter().position(led)?;
    let votes = |id: u64| members.iter().any(|member| member.id == id && !member.learner);
    let mut others = endpoints.iter().flatten().map(|status| status.member_id);
    let next = others.find(|other| *other != id && votes(*other))?;
    Some((endpoint, next))
}

/// The status that a member reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// The member id.
    pub member_id: u64,
    /// The version of etcd.
    pub version: String,
    /// Whether it is etcd's leader.
    pub leads: bool,
    /// The size of the database in bytes.
    pub database_bytes: u64,
}

impl EtcdStore {
    /// The id of the etcd cluster in use; `None` before one is selected.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u64> {
        self.identity.id()
    }

    /// The cluster id that each configured endpoint reported last, in the configured order; `None` without a report.
    #[must_use]
    pub fn named_clusters(&self) -> Vec<Option<u64>> {
        self.identity.named()
    }

    /// Requests the status of all configured endpoints concurrently, also of failed ones.
    ///
    /// Cancellation safe.
    pub async fn endpoints(&self) -> Vec<(String, Result<EndpointStatus, StoreError>)> {
        let ask = |(member, url): (usize, &String)| {
            let url = url.clone();
            async move {
                let answer = self
                    .call(
                        member,
                        Call::Read,
                        (),
                        |mut client, ()| async move { client.status().await },
                    )
                    .await;
                let status = answer.and_then(|answer| {
                    self.ours(member, answer.header())?;
                    let member_id = answer.header().map_or(0, etcd_client::ResponseHeader::member_id);
                    Ok(EndpointStatus {
                        member_id,
                        version: answer.version().to_owned(),
                        leads: member_id != 0 && answer.leader() == member_id,
                        database_bytes: u64::try_from(answer.db_size()).unwrap_or(0),
                    })
                });
                (url, status)
            }
        };
        futures::future::join_all(self.config.endpoints.iter().enumerate().map(ask)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(member_id: u64, leads: bool) -> Option<EndpointStatus> {
        Some(EndpointStatus {
            member_id,
            version: String::new(),
            leads,
            database_bytes: 0,
        })
    }

    fn member(id: u64, learner: bool) -> EtcdMember {
        EtcdMember {
            id,
            name: String::new(),
            peer_urls: Vec::new(),
            learner,
        }
    }

    #[test]
    fn another_voter_that_answers_leads_before_the_leader_is_removed() {
        let members = [member(1, false), member(2, true), member(3, false), member(4, false)];
        let endpoints = [None, status(2, false), status(1, true), status(4, false)];
        assert_eq!(successor(1, &endpoints, &members), Some((2, 4)));
        // It is not the leader, or no other member responds.
        assert_eq!(successor(4, &endpoints, &members), None);
        assert_eq!(successor(1, &endpoints[..3], &members), None);
    }
}
