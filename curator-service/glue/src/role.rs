//! The listener's role, from the election's status.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use curator_election::{ElectionStatus, LeaderValue, Term};
use curator_listener::{Leader, Role, SharedGuard, StatusStream, TermGuard, TermId};
use tokio::sync::watch;

use crate::reason::public_reason;

/// The leader's endpoint, as its value in the election says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderEndpoint {
    /// The node id of the leader, which TLS verifies.
    pub node_id: String,
    /// The addresses of its listener, as `host:port`; none if the value has none.
    pub addresses: Vec<String>,
    /// Whether it authorizes the caller that a forwarded call names. If not, calls with certificates are not
    /// forwarded to it.
    pub authorizes_forwarded: bool,
}

impl LeaderEndpoint {
    /// A leader that runs this listener.
    pub fn new(node_id: impl Into<String>, addresses: impl IntoIterator<Item = String>) -> Self {
        Self {
            node_id: node_id.into(),
            addresses: addresses.into_iter().collect(),
            authorizes_forwarded: true,
        }
    }
}

/// The role of an election status. `endpoint` reads the leader's endpoint from its value.
pub fn role<V: LeaderValue>(status: &ElectionStatus<V>, endpoint: impl FnOnce(&V) -> LeaderEndpoint) -> Role {
    match status {
        ElectionStatus::Undetermined(reason) => Role::Undetermined {
            reason: public_reason(reason),
        },
        ElectionStatus::Follower(following) => {
            let endpoint = endpoint(&following.leader);
            Role::Remote(Leader {
                node_id: endpoint.node_id,
                addresses: endpoint.addresses,
                authorizes_forwarded: endpoint.authorizes_forwarded,
                term: TermId {
                    lock_key: String::from_utf8_lossy(&following.key).into_owned(),
                    lock_revision: following.revision.0,
                },
            })
        }
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

/// The roles that [`publish_roles`] publishes, for [`Listener::run`](curator_listener::Listener::run).
#[derive(Clone, Debug)]
pub struct Roles(pub watch::Receiver<Role>);

impl StatusStream for Roles {
    fn subscribe(&self) -> watch::Receiver<Role> {
        self.0.clone()
    }
}

/// Publishes the role for each status, until the status ends. The listener is told of a change only if there is one.
///
/// `endpoint` reads the leader's endpoint from its value. The address of a leader whose value has none is looked up
/// with `look_up`, once for each term; pass `|_| std::future::pending()` if there is nowhere to look. Cancellation safe
/// if `look_up` is.
pub async fn publish_roles<V, F>(
    mut status: watch::Receiver<ElectionStatus<V>>,
    roles: watch::Sender<Role>,
    endpoint: impl Fn(&V) -> LeaderEndpoint,
    look_up: impl Fn(String) -> F,
) where
    V: LeaderValue,
    F: Future<Output = String>,
{
    // The address found for the leader of this term.
    let mut found: Option<(TermId, String)> = None;
    loop {
        let mut newest = role(&status.borrow_and_update(), &endpoint);
        let mut missing = None;
        if let Role::Remote(leader) = &mut newest
            && leader.addresses.is_empty()
        {
            match &found {
                Some((term, address)) if *term == leader.term => leader.addresses.push(address.clone()),
                _ => missing = Some(leader.clone()),
            }
        }
        // Do not wake the listener without a change.
        roles.send_if_modified(|known| {
            let changed = *known != newest;
            *known = newest;
            changed
        });
        let look = async {
            match &missing {
                Some(leader) => look_up(leader.node_id.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            address = look => found = missing.map(|leader| (leader.term, address)),
        }
    }
}
