//! Calls through one instance of `cargo xtask up`, all the time: the owner asks for the nodes, as `curatorctl` does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use curator_harness::process::{Orphan, bound, run};

use super::board::Calls;

/// Between two calls. Each is a process, and a connection with TLS.
const PAUSE: Duration = Duration::from_millis(200);
/// How often to say something.
const SECOND: Duration = Duration::from_secs(1);
/// How long a call may take: longer than a change of leader.
const LIMIT: Duration = Duration::from_secs(30);

/// Who calls. Dropping it ends the calls, when the one that is under way has ended.
#[derive(Debug)]
pub struct Caller {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Caller {
    /// Calls the instance `name` at an address, with the context of a file, and tells each second how that went.
    pub fn start(ctl: PathBuf, config: PathBuf, name: String, address: String, told: Sender<(String, Calls)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut calls = Calls::default();
            let mut since = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let mut command = bound(&ctl, Orphan::Kill);
                command.args(["nodes", "list", "--output", "json", "--endpoint", &address]);
                command.env("CURATORCTL_CONFIG", &config);
                let began = Instant::now();
                let failed = match run(command, LIMIT) {
                    Ok(finished) if finished.status.success() => None,
                    Ok(finished) => Some(finished.stderr.lines().next().unwrap_or_default().to_owned()),
                    Err(error) => Some(error.chain()),
                };
                match failed {
                    None => calls.answered += 1,
                    Some(why) => {
                        calls.failed += 1;
                        calls.why = why;
                    }
                }
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                calls.slowest_ms = calls.slowest_ms.max(took);
                if since.elapsed() >= SECOND {
                    // Nobody listens any more: then nobody needs to know.
                    let _ = told.send((name.clone(), std::mem::take(&mut calls)));
                    since = Instant::now();
                }
                thread::sleep(PAUSE);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it has panicked, the panic has been printed.
            let _ = thread.join();
        }
    }
}
