//! Per-caller limits of concurrent calls; further calls of the same caller wait.
//!
//! A waiting call blocks only its own caller. Callers without calls take no memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::auth::Caller;

/// All callers with calls in progress.
#[derive(Debug)]
pub(in crate::leader) struct Callers {
    at_a_time: usize,
    places: Arc<Mutex<HashMap<String, Place>>>,
}

/// The calls of one caller.
#[derive(Debug)]
struct Place {
    turns: Arc<Semaphore>,
    calls: usize,
}

/// A call that is running or waiting.
#[derive(Debug)]
pub(in crate::leader) struct Call {
    places: Arc<Mutex<HashMap<String, Place>>>,
    caller: String,
    turns: Arc<Semaphore>,
}

impl Callers {
    /// Creates the limit of concurrently running calls of each caller.
    pub(in crate::leader) fn new(at_a_time: usize) -> Self {
        Self {
            at_a_time,
            places: Arc::default(),
        }
    }

    /// Registers a call; `None` if the caller already has `most` calls.
    pub(in crate::leader) fn enter(&self, caller: &Caller, most: usize) -> Option<Call> {
        let caller = name(caller);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(caller.clone()).or_insert_with(|| Place {
            turns: Arc::new(Semaphore::new(self.at_a_time)),
            calls: 0,
        });
        if place.calls >= most {
            return None;
        }
        place.calls += 1;
        let turns = place.turns.clone();
        drop(places);
        Some(Call {
            places: self.places.clone(),
            caller,
            turns,
        })
    }

    /// The number of callers with calls in progress.
    #[cfg(test)]
    pub(in crate::leader) fn count(&self) -> usize {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A unique name of the caller.
pub(super) fn name(caller: &Caller) -> String {
    match caller {
        Caller::Node { id, .. } => format!("node {id}"),
        Caller::User { identity } => format!("user {identity}"),
        Caller::Anybody { .. } => "anybody".into(),
    }
}

impl Call {
    /// The semaphore of the caller.
    pub(in crate::leader) fn turns(&self) -> Arc<Semaphore> {
        self.turns.clone()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get_mut(&self.caller) {
            place.calls -= 1;
            if place.calls == 0 {
                places.remove(&self.caller);
            }
        }
    }
}
