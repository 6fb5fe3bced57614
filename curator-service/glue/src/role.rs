//! The listener's role, from the election's status, and the place where each term begins.

use std::fmt;

use async_trait::async_trait;
use curator_election::store::Revision;
use curator_election::{ElectionStatus, ElectorHandle, LeaderInfo, LeaderValue, Term, Validity};
use curator_listener::{Leader, LeaderSuspected, LeaderTerm, LockKey, Role, StatusStream, TermGuard, TermId};
use futures::future::BoxFuture;
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

/// The role of an election status. `endpoint` reads the leader's endpoint from its value; `lead` gives the context of a
/// term of this instance.
pub fn role<V: LeaderValue, T>(
    status: &ElectionStatus<V>,
    endpoint: impl FnOnce(&V) -> LeaderEndpoint,
    lead: impl FnOnce(&Term) -> T,
) -> Role<T> {
    match status {
        ElectionStatus::Undetermined(reason) => Role::Undetermined {
            reason: public_reason(reason),
        },
        ElectionStatus::Follower(following) => follower(following, endpoint),
        ElectionStatus::Leader(term) => leader(term, lead(term)),
    }
}

fn follower<V: LeaderValue, T>(following: &LeaderInfo<V>, endpoint: impl FnOnce(&V) -> LeaderEndpoint) -> Role<T> {
    let endpoint = endpoint(&following.leader);
    Role::Follower(Leader {
        node_id: endpoint.node_id,
        addresses: endpoint.addresses,
        authorizes_forwarded: endpoint.authorizes_forwarded,
        term: TermId {
            lock_key: LockKey::from(following.key.clone()),
            lock_revision: following.revision.0,
        },
    })
}

fn leader<T>(term: &Term, context: T) -> Role<T> {
    let id = TermId {
        lock_key: LockKey::from(term.lock_key().clone()),
        lock_revision: term.lock_revision().0,
    };
    Role::Leader(LeaderTerm::with_context(id, Guard(term.clone()), context))
}

/// The guard of the listener's calls: a suspended term lasts, and new calls wait.
struct Guard(Term);

#[async_trait]
impl TermGuard for Guard {
    fn is_valid(&self) -> bool {
        !self.0.has_ended()
    }

    fn is_suspended(&self) -> bool {
        self.0.validity() == Validity::Suspended
    }

    async fn resumed(&self) {
        // If it has ended, the role changes.
        let _ = self.0.valid().await;
    }

    fn remaining(&self) -> std::time::Duration {
        self.0.remaining()
    }

    async fn ended(&self) {
        self.0.ended().await;
    }
}

/// Reports a leader that seems to be dead to the elector: for
/// [`ListenerConfig::leader_suspected`](curator_listener::ListenerConfig::leader_suspected).
pub fn leader_suspected<V: LeaderValue>(elector: ElectorHandle<V>) -> LeaderSuspected {
    LeaderSuspected::new(move |term| elector.suspect(Revision(term.lock_revision)))
}

/// The roles that [`publish_roles`] publishes, for [`Listener::run`](curator_listener::Listener::run).
#[derive(Clone, Debug)]
pub struct Roles<T = ()>(pub watch::Receiver<Role<T>>);

impl<T: Clone + Send + Sync + 'static> StatusStream<T> for Roles<T> {
    fn subscribe(&self) -> watch::Receiver<Role<T>> {
        self.0.clone()
    }
}

/// A term of this instance that has begun.
pub struct Begun<T = ()> {
    /// What the listener's leader services get with the term.
    pub context: T,
    /// The leader's work, until the term has ended. What belongs to the term is dropped when it completes.
    pub work: BoxFuture<'static, ()>,
}

impl<T> Begun<T> {
    /// A term with this context and no work of its own.
    pub fn new(context: T) -> Self {
        Self {
            context,
            work: Box::pin(std::future::pending()),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Begun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

/// Publishes the role for each status, until the status ends. The listener is told of a change only if there is one.
///
/// `endpoint` reads the leader's endpoint from its value. The address of a leader whose value has none is looked up
/// with `look_up`, once for each term; pass `|_| std::future::pending()` if there is nowhere to look.
///
/// This is the only place where a term begins: `begin` is called once for each term of this instance, makes everything
/// that belongs to the term, and what it makes for the listener is published with the role. Its work runs here until
/// the term has ended. An error of `begin` is the reason of the role undetermined; pass `|_| Ok(Begun::new(()))` if
/// there is nothing to make.
///
/// Cancellation: the work of the term is dropped too.
pub async fn publish_roles<V, T, F>(
    mut status: watch::Receiver<ElectionStatus<V>>,
    roles: watch::Sender<Role<T>>,
    endpoint: impl Fn(&V) -> LeaderEndpoint,
    look_up: impl Fn(String) -> F,
    mut begin: impl FnMut(&Term) -> Result<Begun<T>, String>,
) where
    V: LeaderValue,
    T: Clone,
    F: Future<Output = String>,
{
    // The address found for the leader of this term.
    let mut found: Option<(TermId, String)> = None;
    // The newest term that has begun, and the role that it gave this instance.
    let mut newest_term: Option<(Term, Role<T>)> = None;
    // The work of that term.
    let mut work: Option<BoxFuture<'static, ()>> = None;
    loop {
        let observed = status.borrow_and_update().clone();
        let mut newest = match &observed {
            ElectionStatus::Undetermined(reason) => Role::Undetermined {
                reason: public_reason(reason),
            },
            ElectionStatus::Follower(following) => follower(following, &endpoint),
            ElectionStatus::Leader(term) => match &newest_term {
                Some((known, role)) if known == term => role.clone(),
                _ => {
                    let role = match begin(term) {
                        Ok(begun) => {
                            work = Some(begun.work);
                            leader(term, begun.context)
                        }
                        Err(reason) => Role::Undetermined { reason },
                    };
                    newest_term = Some((term.clone(), role.clone()));
                    role
                }
            },
        };
        let mut missing = None;
        if let Role::Follower(leader) = &mut newest
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
        let working = async {
            match &mut work {
                Some(work) => work.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            address = look => found = missing.map(|leader| (leader.term, address)),
            () = working => {
                work = None;
                // Drop what belonged to the term, also if the status still reports it.
                if let Some((_, role)) = &mut newest_term {
                    *role = Role::Undetermined {
                        reason: "the term of this leader has ended".into(),
                    };
                }
            }
        }
    }
}
