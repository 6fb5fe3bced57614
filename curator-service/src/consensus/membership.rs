//! The members of the consensus, and changes of the membership.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use curator_election::etcd::EtcdStore;
use curator_election::store::StoreError;

/// A member of the consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member's id.
    pub id: u64,
    /// The member's name, which is its node's id; empty until its first start.
    pub name: String,
    /// The URLs for its peers.
    pub peer_urls: Vec<String>,
    /// Whether it is a learner, without a vote (yet).
    pub learner: bool,
}

impl Member {
    /// The node's id: the member's name or, before its first start, the host of its peer URL.
    #[must_use]
    pub fn node_id(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        self.peer_host().unwrap_or_default()
    }

    /// The host of its peer URL.
    fn peer_host(&self) -> Option<String> {
        let url = self.peer_urls.first().and_then(|url| url.parse::<http::Uri>().ok());
        url.and_then(|url| url.host().map(str::to_owned))
    }

    /// Whether the host of its peer URL is not its node's id: then an operator runs the member, not its node.
    #[must_use]
    pub fn is_run_by_itself(&self) -> bool {
        self.peer_host().is_some_and(|host| host != self.node_id())
    }

    /// Whether the member's node is unknown: the member has not started yet, and the host of its peer URL is an address
    /// or a DNS name.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.name.is_empty() && self.node_id().contains(['.', ':'])
    }
}

/// Why the membership could not be read or changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The consensus refused the request or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This consensus has a fixed membership.
    #[error("the membership of this store cannot be changed: it is not highly available")]
    Fixed,
    /// There is no such member.
    #[error("member {id:x} not found")]
    NoMember {
        /// The member's id.
        id: u64,
    },
}

/// The membership of the consensus. Changes are not fenced by a transaction of the state: the caller must ensure by
/// other means that it leads.
#[async_trait]
pub trait Membership: Send + Sync + 'static {
    /// All members. Cancellation safe.
    async fn members(&self) -> Result<Vec<Member>, MembershipError>;

    /// Adds a learner. Cancellation: it may or may not be added.
    async fn add_learner(&self, peer_url: &str) -> Result<(), MembershipError>;

    /// Promotes a learner to a voter; refused until it has caught up. Cancellation: it may or may not be promoted.
    async fn promote(&self, id: u64) -> Result<(), MembershipError>;

    /// Removes a member; refused if the rest would have no quorum. Cancellation: it may or may not be removed.
    async fn remove(&self, id: u64) -> Result<(), MembershipError>;
}

/// The membership of an etcd cluster.
pub(super) struct EtcdMembership(pub(super) Arc<EtcdStore>);

#[async_trait]
impl Membership for EtcdMembership {
    async fn members(&self) -> Result<Vec<Member>, MembershipError> {
        let members = self.0.members().await?.into_iter().map(|member| Member {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_urls,
            learner: member.learner,
        });
        Ok(members.collect())
    }

    async fn add_learner(&self, peer_url: &str) -> Result<(), MembershipError> {
        Ok(self.0.add_learner(peer_url).await?)
    }

    async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        Ok(self.0.promote_member(id).await?)
    }

    async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        Ok(self.0.remove_member(id).await?)
    }
}

/// A membership in memory, for the embedded store and for tests.
#[derive(Debug, Default)]
pub struct FixedMembership {
    members: Mutex<Vec<Member>>,
    changeable: bool,
}

impl FixedMembership {
    /// A fixed membership.
    #[must_use]
    pub fn new(members: Vec<Member>) -> Self {
        Self {
            members: Mutex::new(members),
            changeable: false,
        }
    }

    /// A membership that can be changed.
    #[must_use]
    pub fn changeable(members: Vec<Member>) -> Self {
        Self {
            members: Mutex::new(members),
            changeable: true,
        }
    }

    /// Sets the member's name, as on its first start.
    #[cfg(test)]
    pub(crate) fn named(&self, node: &str) {
        let mut members = self.lock();
        for member in members.iter_mut().filter(|member| member.node_id() == node) {
            member.name = node.to_owned();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Member>> {
        // The lock cannot be poisoned half-way: its holders do not panic.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_change(&self) -> Result<MutexGuard<'_, Vec<Member>>, MembershipError> {
        if self.changeable {
            Ok(self.lock())
        } else {
            Err(MembershipError::Fixed)
        }
    }
}

#[async_trait]
impl Membership for FixedMembership {
    async fn members(&self) -> Result<Vec<Member>, MembershipError> {
        Ok(self.lock().clone())
    }

    async fn add_learner(&self, peer_url: &str) -> Result<(), MembershipError> {
        let mut members = self.to_change()?;
        let id = members.iter().map(|member| member.id).max().unwrap_or(0) + 1;
        members.push(Member {
            id,
            name: String::new(),
            peer_urls: vec![peer_url.to_owned()],
            learner: true,
        });
        Ok(())
    }

    async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        let mut members = self.to_change()?;
        let member = members.iter_mut().find(|member| member.id == id);
        member.ok_or(MembershipError::NoMember { id })?.learner = false;
        Ok(())
    }

    async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        let mut members = self.to_change()?;
        let before = members.len();
        members.retain(|member| member.id != id);
        if members.len() < before {
            Ok(())
        } else {
            Err(MembershipError::NoMember { id })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_its_name_or_else_where_its_peers_reach_it() {
        let member = |name: &str, url: &str| Member {
            id: 1,
            name: name.into(),
            peer_urls: vec![url.into()],
            learner: false,
        };
        assert_eq!(member("a", "https://b:7834").node_id(), "a");
        assert_eq!(member("", "https://b:7834").node_id(), "b");
        assert_eq!(member("", "").node_id(), "");
    }

    #[test]
    fn a_member_that_is_reached_at_an_address_is_run_by_itself() {
        let member = |name: &str, url: &str| Member {
            id: 1,
            name: name.into(),
            peer_urls: vec![url.into()],
            learner: false,
        };
        assert!(!member("a", "https://a:7834").is_run_by_itself());
        assert!(member("a", "https://10.0.0.1:2380").is_run_by_itself());
        assert!(!member("a", "").is_run_by_itself());
        for (name, url, unknown) in [
            ("", "https://10.0.0.4:2380", true),
            ("", "https://[fd00::4]:2380", true),
            ("", "https://etcd-4.example:2380", true),
            ("", "https://a:7834", false),
            ("a", "https://10.0.0.4:2380", false),
        ] {
            assert_eq!(member(name, url).is_unknown(), unknown, "{name} {url}");
        }
    }
}
