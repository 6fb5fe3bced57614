//! The members of etcd itself.

use super::classify::Call;
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

    /// Removes a member.
    ///
    /// Cancellation: it may have been removed or not.
    ///
    /// # Errors
    /// etcd refuses, as it does if what is left would have no quorum, or does not answer.
    pub async fn remove_member(&self, id: u64) -> Result<(), StoreError> {
        let member = self.writable().await?;
        self.call(member, Call::Write(None), (), |mut client, ()| async move {
            client.member_remove(id).await.map(drop)
        })
        .await
    }
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
                let status = answer.map(|answer| {
                    let member_id = answer.header().map_or(0, etcd_client::ResponseHeader::member_id);
                    EndpointStatus {
                        member_id,
                        version: answer.version().to_owned(),
                        leads: member_id != 0 && answer.leader() == member_id,
                        database_bytes: u64::try_from(answer.db_size()).unwrap_or(0),
                    }
                });
                (url, status)
            }
        };
        futures::future::join_all(self.config.endpoints.iter().enumerate().map(ask)).await
    }
}
