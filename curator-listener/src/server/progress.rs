//! Detects worker threads that are blocked.
//!
//! A busy thread runs a new task late, because the task is queued behind all others; it is not blocked. So the probe
//! also counts the polls of its connections. A blocked thread completes no poll.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

/// How often the number of polls is read.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The first poll may have begun long before.
const MIN_POLLS: u64 = 2;

/// The number of completed polls of a worker's connections. Clones share the counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Runs a future and counts its polls.
    pub(crate) async fn of<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            self.0.fetch_add(1, Ordering::Relaxed);
            polled
        })
        .await
    }

    fn polls(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Completes when polls that began after the call have completed. Cancellation safe.
    async fn makes_progress(&self) {
        let before = self.polls();
        while self.polls() < before.saturating_add(MIN_POLLS) {
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Probes one worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerProbe {
    /// The runtime of the worker.
    pub(crate) runtime: Handle,
    pub(crate) progress: Progress,
}

impl WorkerProbe {
    /// Completes when the worker has run a new task or has made progress. Never completes while it is blocked or
    /// after it has ended. Cancellation safe.
    pub(crate) async fn responds(&self) {
        let asked = self.runtime.spawn(async {});
        let answered = async {
            if asked.await.is_err() {
                // The thread is gone, which `Listener::run` reports.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = answered => {}
            () = self.progress.makes_progress() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn thread_that_gets_on_responds_however_much_it_has_to_do() {
        // Nothing drives this runtime: a new task never runs.
        let busy = Builder::new_current_thread().build().expect("a runtime");
        let worker = WorkerProbe {
            runtime: busy.handle().clone(),
            progress: Progress::default(),
        };
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, worker.responds()).await.is_err(), "it is blocked");
        let asking = tokio::spawn({
            let worker = worker.clone();
            async move { worker.responds().await }
        });
        tokio::task::yield_now().await;
        worker.progress.of(async {}).await;
        let one = async {
            while !asking.is_finished() {
                sleep(POLL_INTERVAL).await;
            }
        };
        assert!(timeout(hour, one).await.is_err(), "the turn may have begun before");
        worker.progress.of(async {}).await;
        timeout(hour, asking).await.expect("it gets on").expect("no panic");
        busy.shutdown_background();
    }
}
