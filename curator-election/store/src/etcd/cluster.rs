//! The members of etcd itself.

use super::errors::Call;
use super::{EtcdStore, StoreError};

/// A member of an etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdMember {
    /// etcd's number for it.
    pub id: u64,
    /// What it calls itself; empty until it has started for the first time.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Whether it has no vote (yet).
    pub learner: bool,
}

impl EtcdStore {
    /// The members of the cluster. Cancellation safe.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn members(&self) -> Result<Vec<EtcdMember>, StoreError> {
        // A write goes to a member that has just answered, and through the consensus: what it has learnt is not old.
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

    /// Adds a member that has no vote before it is [promoted](Self::promote_member).
    ///
    /// Cancellation: it may have been added or not.
    ///
    /// # Errors
    /// etcd refuses, as it does when another learner is being added, or does not answer.
    pub async fn add_learner(&self, peer_url: &str) -> Result<(), StoreError> {
        let urls = [peer_url.to_owned()];
        let member = self.writable().await?;
        self.call(member, Call::Write(None), urls, |mut client, urls| async move {
            let options = etcd_client::MemberAddOptions::new().with_is_learner();
            client.member_add(urls, Some(options)).await.map(drop)
        })
        .await
    }

    /// Gives a learner its vote.
    ///
    /// Cancellation: it may have been promoted or not.
    ///
    /// # Errors
    /// etcd refuses, as it does while the learner has not caught up, or does not answer.
    pub async fn promote_member(&self, id: u64) -> Result<(), StoreError> {
        let member = self.writable().await?;
        self.call(member, Call::Write(None), (), |mut client, ()| async move {
            client.member_promote(id).await.map(drop)
        })
        .await
    }

    /// Removes a member. If it leads etcd, another member that answers is asked to lead first, since the others would
    /// otherwise have to notice its silence: no call gets through until then, which can cost a leader of ours its term.
    ///
    /// Cancellation: it may have been removed or not.
    ///
    /// # Errors
    /// etcd refuses, as it does if what is left would have no quorum, or does not answer.
    pub async fn remove_member(&self, id: u64) -> Result<(), StoreError> {
        self.lead_elsewhere(id).await;
        let member = self.writable().await?;
        self.call(member, Call::Write(None), (), |mut client, ()| async move {
            client.member_remove(id).await.map(drop)
        })
        .await
    }

    /// Asks another member to lead etcd if this one does. What fails here only makes the removal slower for others.
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
            Ok(()) => tracing::info!("etcd member {id:x} led and is to be removed: {next:x} leads now"),
            Err(error) => {
                tracing::warn!(
                    "etcd member {id:x} leads and is to be removed, but {next:x} did not take over: {error}"
                );
            }
        }
    }
}

/// If the member leads: at which endpoint it can be asked to let another lead, and which.
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

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// etcd's number for the member.
    pub member_id: u64,
    /// Of etcd.
    pub version: String,
    /// Whether it is the leader among the members.
    pub leads: bool,
    /// Of the database, in bytes.
    pub database_bytes: u64,
}

impl EtcdStore {
    /// The id of the etcd cluster in use; `None` before one was chosen.
    #[must_use]
    pub fn cluster_id(&self) -> Option<u64> {
        self.identity.id()
    }

    /// Which cluster each configured endpoint has last said that it is of, in their order; `None` if it has not.
    #[must_use]
    pub fn named_clusters(&self) -> Vec<Option<u64>> {
        self.identity.named()
    }

    /// Asks each configured endpoint, all at once, how it is. None of them is spared because it has failed before.
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
        // It does not lead, or there is nobody else.
        assert_eq!(successor(4, &endpoints, &members), None);
        assert_eq!(successor(1, &endpoints[..3], &members), None);
    }
}
