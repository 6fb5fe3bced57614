//! What one open call costs in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::memory::ConnectionMemory;

/// What one call costs while it is open: itself, its head, and what its service has read and not answered yet.
#[derive(Debug)]
pub(crate) struct CallCost {
    held: Arc<ConnectionMemory>,
    base: usize,
    kept: AtomicUsize,
    answered: AtomicBool,
}

impl CallCost {
    pub(crate) fn new(held: Arc<ConnectionMemory>, base: usize) -> Arc<Self> {
        held.take(base);
        Arc::new(Self {
            held,
            base,
            kept: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
        })
    }

    /// Its answer begins: the request is not needed any more.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::SeqCst);
        self.held.give_back(self.kept.swap(0, Ordering::SeqCst));
    }

    /// So much is counted already, and goes with the request.
    pub(crate) fn keep(&self, bytes: usize) {
        self.kept.fetch_add(bytes, Ordering::SeqCst);
        if self.answered.load(Ordering::SeqCst) {
            self.answered();
        }
    }
}

impl Drop for CallCost {
    fn drop(&mut self) {
        self.held.give_back(self.base + *self.kept.get_mut());
    }
}
