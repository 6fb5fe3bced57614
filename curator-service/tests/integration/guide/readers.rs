//! Whoever follows a guide and fills in what only they can know: the ids of nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use curator_harness::wait_until;
use serde_json::Value;

use super::shell::User;

const SOON: Duration = Duration::from_secs(60);

/// The block with these ids in the places of `metropolis-...`, in their order.
pub(super) fn filled(block: &str, ids: &[&str]) -> String {
    let mut parts = block.split("metropolis-...");
    let mut text = parts.next().unwrap_or_default().to_owned();
    let mut ids = ids.iter();
    for part in parts {
        text.push_str(ids.next().expect("an id for each place"));
        text.push_str(part);
    }
    assert_eq!(ids.next(), None, "a place for each id");
    text
}

/// The id of the one node that waits for its approval, as soon as there is one.
pub(super) fn pending(owner: &User) -> String {
    wait_until("a node to register", SOON, || {
        nodes(owner, "node.state == NODE_STATE_NEW").into_iter().next()
    })
    .unwrap()
}

/// Asks for the nodes through these instances, again and again.
pub(super) struct Calls {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u32, String>>>,
}

impl Calls {
    pub(super) fn begin(owner: User, endpoints: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut answered = 0;
            while !stopped.load(Ordering::Relaxed) {
                owner.ask(&["nodes", "list", "--endpoint", &endpoints, "--timeout", "20s"])?;
                answered += 1;
                thread::sleep(Duration::from_millis(100));
            }
            Ok(answered)
        });
        let thread = Some(thread);
        Self { stop, thread }
    }

    /// How many were answered; none may have failed.
    pub(super) fn end(mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        thread.join().unwrap().expect("no call fails")
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The ids of nodes.
pub(super) fn nodes(owner: &User, filter: &str) -> Vec<String> {
    let words = ["nodes", "list", "--filter", filter, "--output", "json"];
    let Ok(text) = owner.ask(&words) else {
        return Vec::new();
    };
    let list: Value = serde_json::from_str(&text).unwrap();
    let ids = list.as_array().unwrap().iter();
    ids.map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}
