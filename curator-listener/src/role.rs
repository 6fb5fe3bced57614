//! The interface between the listener and the election.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

/// The role of this instance, and its changes. `T` is the context of a [`LeaderTerm`].
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
pub trait StatusStream<T: Send + Sync + 'static = ()>: Send + Sync + 'static {
    /// Subscribes to the role. The receiver only keeps the newest role, and a subscriber may miss intermediate ones.
    fn subscribe(&self) -> watch::Receiver<Role<T>>;
}

impl<T: Send + Sync + 'static, S: StatusStream<T> + ?Sized> StatusStream<T> for Arc<S> {
    fn subscribe(&self) -> watch::Receiver<Role<T>> {
        (**self).subscribe()
    }
}

/// The role of this instance in the election. `T` is the context of a [`LeaderTerm`].
///
/// Two roles are equal if they differ in nothing that a caller can observe: the guard and the context of a term are
/// not compared.
#[derive(Clone, Debug)]
pub enum Role<T = ()> {
    /// The leader is not known.
    Undetermined {
        /// The reason. It is reported to callers, who may be strangers.
        reason: String,
    },
    /// This instance is the leader, as long as the term is valid.
    Leader(LeaderTerm<T>),
    /// Another instance is the leader.
    Follower(Leader),
}

impl<T> PartialEq for Role<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undetermined { reason }, Self::Undetermined { reason: other }) => reason == other,
            (Self::Leader(term), Self::Leader(other)) => term.term == other.term,
            (Self::Follower(leader), Self::Follower(other)) => leader == other,
            _ => false,
        }
    }
}

/// A term of this instance.
///
/// The code that begins a term makes it, and hands the term to the leader's services with it. A context of the type
/// `T` goes with the term, for example the election's own term, or services that exist already: so that nobody has
/// to find it by the term's id.
#[derive(Clone)]
#[non_exhaustive]
pub struct LeaderTerm<T = ()> {
    /// Identifies the term.
    pub term: TermId,
    /// Whether the term is still valid. The listener drops calls when it ends; tasks that outlive a call must check
    /// it.
    pub guard: SharedGuard,
    /// What belongs to the term.
    pub context: T,
}

impl LeaderTerm {
    /// A term without a context.
    pub fn new(term: TermId, guard: impl TermGuard) -> Self {
        Self::with_context(term, guard, ())
    }
}

impl<T> LeaderTerm<T> {
    /// A term with a context.
    pub fn with_context(term: TermId, guard: impl TermGuard, context: T) -> Self {
        Self {
            term,
            guard: SharedGuard(Arc::new(guard)),
            context,
        }
    }
}

impl<T> fmt::Debug for LeaderTerm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderTerm")
            .field("term", &self.term)
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

/// Identifies a term. The combination is never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermId {
    /// The key of the lock.
    pub lock_key: LockKey,
    /// The create revision of the key.
    pub lock_revision: i64,
}

/// The key of a lock: any bytes. It is displayed as text; bytes that are not UTF-8 are replaced then.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LockKey(Bytes);

impl LockKey {
    /// The key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for LockKey {
    fn from(key: Bytes) -> Self {
        Self(key)
    }
}

impl From<String> for LockKey {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

impl From<&str> for LockKey {
    fn from(key: &str) -> Self {
        key.to_owned().into()
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
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
///
/// A term may also be suspended: it is valid, but nothing may be begun in its name until it is resumed. Calls under way
/// and streams live on; new calls wait.
#[async_trait]
pub trait TermGuard: Send + Sync + 'static {
    /// Whether the term lasts at this moment: it has not ended.
    fn is_valid(&self) -> bool;

    /// Whether the term is suspended at this moment. By default never.
    fn is_suspended(&self) -> bool {
        false
    }

    /// Completes when the term is not suspended; it may have ended then. By default at once. Cancellation safe.
    async fn resumed(&self) {}

    /// The time until the term ends if it is not renewed.
    fn remaining(&self) -> Duration;

    /// Completes when the term has ended. Cancellation safe.
    async fn ended(&self);
}

#[async_trait]
impl<G: TermGuard + ?Sized> TermGuard for Arc<G> {
    fn is_valid(&self) -> bool {
        (**self).is_valid()
    }

    fn remaining(&self) -> Duration {
        (**self).remaining()
    }

    async fn ended(&self) {
        (**self).ended().await;
    }

    fn is_suspended(&self) -> bool {
        (**self).is_suspended()
    }

    async fn resumed(&self) {
        (**self).resumed().await;
    }
}

#[cfg(any(test, feature = "mock"))]
mockall::mock! {
    /// A mock of [`TermGuard`]. The provided methods are not mocked: the term is never suspended.
    pub TermGuard {}

    #[async_trait]
    impl TermGuard for TermGuard {
        fn is_valid(&self) -> bool;
        fn remaining(&self) -> Duration;
        async fn ended(&self);
    }
}

/// A [`TermGuard`] that several parts share.
#[derive(Clone)]
pub struct SharedGuard(pub Arc<dyn TermGuard>);

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

    fn leader(revision: i64) -> Role {
        let mut guard = MockTermGuard::new();
        guard.expect_remaining().returning(|| Duration::from_secs(1));
        let term = TermId {
            lock_key: "/leader/1".into(),
            lock_revision: revision,
        };
        Role::Leader(LeaderTerm::new(term, guard))
    }

    #[test]
    fn leader_role_equals_that_of_the_same_term_only() {
        assert_eq!(leader(7), leader(7));
        assert_ne!(leader(7), leader(8));
        let undetermined = |reason: &str| Role::<()>::Undetermined { reason: reason.into() };
        assert_eq!(undetermined("a"), undetermined("a"));
        assert_ne!(undetermined("a"), undetermined("b"));
        assert_ne!(undetermined("a"), leader(7));
    }

    /// Different keys that are not UTF-8 look alike as text.
    #[test]
    fn lock_keys_are_compared_as_bytes() {
        let key = |bytes: &'static [u8]| LockKey::from(Bytes::from_static(bytes));
        assert_eq!(key(b"\xfe").to_string(), key(b"\xff").to_string());
        assert_ne!(key(b"\xfe"), key(b"\xff"));
    }

    #[tokio::test]
    async fn status_stream_mock_publishes_roles() {
        let (sender, receiver) = watch::channel(leader(7));
        let mut status = MockStatusStream::new();
        status.expect_subscribe().returning(move || receiver.clone());
        let mut seen = status.subscribe();
        sender.send_replace(leader(8));
        assert_eq!(*seen.borrow_and_update(), leader(8));
    }
}
