//! What callers have under way, each of them: so much at a time, and the rest waits for their own.
//!
//! Who waits for what they have themselves keeps nobody else waiting. Nothing stays of those who have nothing under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::auth::Caller;

/// All callers with something under way.
#[derive(Debug)]
pub(in crate::leader) struct Callers {
    at_a_time: usize,
    places: Arc<Mutex<HashMap<String, Place>>>,
}

/// One caller's.
#[derive(Debug)]
struct Place {
    turns: Arc<Semaphore>,
    calls: usize,
}

/// A call of a caller, worked on or waiting.
#[derive(Debug)]
pub(in crate::leader) struct Call {
    places: Arc<Mutex<HashMap<String, Place>>>,
    caller: String,
    turns: Arc<Semaphore>,
}

impl Callers {
    /// Each has so many turns at a time.
    pub(in crate::leader) fn new(at_a_time: usize) -> Self {
        Self {
            at_a_time,
            places: Arc::default(),
        }
    }

    /// One more call of this caller; `None` if it has `most` of them already.
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

    /// How many have something under way.
    #[cfg(test)]
    pub(in crate::leader) fn count(&self) -> usize {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// What tells a caller from all others.
pub(super) fn name(caller: &Caller) -> String {
    match caller {
        Caller::Node { id, .. } => format!("node {id}"),
        Caller::User { identity } => format!("user {identity}"),
        Caller::Anybody { .. } => "anybody".into(),
    }
}

impl Call {
    /// The turns of its caller.
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
