//! What a term is called outside this process: its lock key as the store has it, and the name of its election.

use std::sync::OnceLock;

use bytes::Bytes;

use super::Term;
use crate::store::{Compare, Keys};

/// The names of a term. The elector sets them before it publishes the term.
#[derive(Debug, Default)]
pub(super) struct Names {
    key_in_store: OnceLock<Bytes>,
    election: OnceLock<String>,
}

impl Term {
    /// Sets the lock key as the store has it, and the name of the election.
    pub(crate) fn set_names(&self, key_in_store: Bytes, election: Option<String>) {
        // They are set once, by whoever makes the term.
        let _ = self.inner.names.key_in_store.set(key_in_store);
        if let Some(election) = election {
            let _ = self.inner.names.election.set(election);
        }
    }

    /// The full lock key, as it is in the store: with the prefix of the namespace, if there is one. Use it in
    /// transactions of another client of the same store; in this crate's own stores use [`Term::lock_key`].
    #[must_use]
    pub fn key_in_store(&self) -> &Bytes {
        self.inner.names.key_in_store.get().unwrap_or(&self.inner.lock_key)
    }

    /// The name of the election, if it has one.
    #[must_use]
    pub fn election(&self) -> Option<&str> {
        self.inner.names.election.get().map(String::as_str)
    }

    /// The [guard](Term::guard) on the full lock key, for a client that knows nothing of the namespace. For
    /// `etcd-client` itself: `Term::etcd_guard`.
    #[must_use]
    pub fn guard_in_store(&self) -> Compare {
        Compare {
            keys: Keys::One(self.key_in_store().clone()),
            ..self.guard()
        }
    }
}
