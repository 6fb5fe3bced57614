//! The memory cost of one open call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::memory::ConnectionMemory;

/// The cost of a call while it is open: the call itself, its head, and data that its service has read and not
/// answered yet.
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

    /// The answer begins: the request is not needed any more.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::SeqCst);
        self.held.give_back(self.kept.swap(0, Ordering::SeqCst));
    }

    /// Takes over data of the request that is already counted.
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
