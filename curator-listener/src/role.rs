//! The interface between the listener and the election.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

/// The role of this instance, and its changes.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
pub trait StatusStream: Send + Sync + 'static {
    /// Subscribes to the role. The receiver only keeps the newest role, and a subscriber may miss intermediate ones.
    fn subscribe(&self) -> watch::Receiver<Role>;
}

impl<S: StatusStream + ?Sized> StatusStream for Arc<S> {
    fn subscribe(&self) -> watch::Receiver<Role> {
        (**self).subscribe()
    }
}

/// The role of this instance in the election.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// The leader is not known.
    Undetermined {
        /// The reason. It is reported to callers, who may be strangers.
        reason: String,
    },
    /// This instance is the leader, as long as the term is valid.
    Local {
        /// Identifies the term.
        term: TermId,
        /// Tells whether the term is still valid.
        guard: SharedGuard,
    },
    /// Another instance is the leader.
    Remote(Leader),
}

/// Identifies a term. The combination is never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermId {
    /// The key of the lock.
    pub lock_key: String,
    /// The create revision of the key.
    pub lock_revision: i64,
}

/// The leader, when it is another instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The id of its node.
    pub node_id: String,
    /// Its addresses as host:port, the preferred one first. Empty if it publishes none.
    pub addresses: Vec<String>,
    /// Whether it authorizes a forwarded call by the caller that the call names. A leader that does not would run
    /// each call with the rights of the forwarding instance, so nothing is forwarded to it and callers get its
    /// address instead.
    pub authorizes_forwarded: bool,
    /// Its term.
    pub term: TermId,
}

/// Tells whether a term is valid. The answer is current and only needs a clock. A term that has ended stays invalid.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait TermGuard: Send + Sync + 'static {
    /// Whether this instance may act in the term at this moment.
    fn is_valid(&self) -> bool;

    /// The time until the term ends if it is not renewed.
    fn remaining(&self) -> Duration;

    /// Completes when the term has ended. Cancellation safe.
    async fn ended(&self);
}

/// A comparable [`TermGuard`]. Always compares equal; compare [`TermId`] instead.
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

/// A role that is set by hand: for a service without an election, and for tests.
#[derive(Debug)]
pub struct StaticStatus {
    role: watch::Sender<Role>,
}

impl StaticStatus {
    /// Starts with this role.
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
