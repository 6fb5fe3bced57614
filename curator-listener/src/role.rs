//! What the listener knows of the election: the whole seam.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

/// The role of this instance, and its changes.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
pub trait StatusStream: Send + Sync + 'static {
    /// A view of the role. It keeps only the newest: whoever misses one in between must be right all the same.
    fn subscribe(&self) -> watch::Receiver<Role>;
}

impl<S: StatusStream + ?Sized> StatusStream for Arc<S> {
    fn subscribe(&self) -> watch::Receiver<Role> {
        (**self).subscribe()
    }
}

/// What this instance is in the election at the moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// Nobody knows who leads.
    Undetermined {
        /// Why, in words. Callers are told, who may be strangers.
        reason: String,
    },
    /// This instance leads, for as long as the term is valid.
    Local {
        /// Names the term.
        term: TermId,
        /// Says whether it is still valid.
        guard: SharedGuard,
    },
    /// Another instance leads.
    Remote(Leader),
}

/// Names a term of leadership: together these never come back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermId {
    /// The key that makes the term.
    pub lock_key: String,
    /// The revision at which the key was created.
    pub lock_revision: i64,
}

/// The leader, when it is another instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node that it runs on.
    pub node_id: String,
    /// Where it can be limit_alerts, as host:port, the preferred one first; empty if it does not say.
    pub addresses: Vec<String>,
    /// Whether it authorizes a forwarded call for the caller that the call names. A leader that does not would take each call as
    /// this instance's own, with this instance's rights: nothing is forwarded to it, and callers are told where it is.
    pub authorizes_forwarded: bool,
    /// Its term.
    pub term: TermId,
}

/// Says whether a term is valid. The answer is always fresh and needs nothing but a clock; once it is no, it stays no.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait TermGuard: Send + Sync + 'static {
    /// Whether this instance may act in the term at this moment.
    fn is_valid(&self) -> bool;

    /// How long it may, if the term is not renewed.
    fn remaining(&self) -> Duration;

    /// Completes when the term has ended. Cancellation safe.
    async fn ended(&self);
}

/// A [`TermGuard`] that can be compared: the term's id says which one it is, so that all guards are alike.
#[derive(Clone)]
pub struct SharedGuard(pub Arc<dyn TermGuard>);

impl PartialEq for SharedGuard {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for SharedGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "valid for {:?}", self.0.remaining())
    }
}

/// A role that is set by hand: for a service without election, and for tests.
#[derive(Debug)]
pub struct StaticStatus {
    role: watch::Sender<Role>,
}

impl StaticStatus {
    /// Begins with this role.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role: watch::Sender::new(role),
        }
    }

    /// Changes the role.
    pub fn set(&self, role: Role) {
        self.role.send_replace(role);
    }
}

impl StatusStream for StaticStatus {
    fn subscribe(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(revision: i64) -> Role {
        let mut guard = MockTermGuard::new();
        guard.expect_remaining().returning(|| Duration::from_secs(1));
        let term = TermId {
            lock_key: "/leader/1".into(),
            lock_revision: revision,
        };
        Role::Local {
            term,
            guard: SharedGuard(Arc::new(guard)),
        }
    }

    #[test]
    fn a_role_is_told_by_its_term() {
        assert_eq!(local(7), local(7));
        assert_ne!(local(7), local(8));
    }

    #[tokio::test]
    async fn a_status_can_be_mocked() {
        let (sender, receiver) = watch::channel(local(7));
        let mut status = MockStatusStream::new();
        status.expect_subscribe().returning(move || receiver.clone());
        let mut seen = status.subscribe();
        sender.send_replace(local(8));
        assert_eq!(*seen.borrow_and_update(), local(8));
    }
}
