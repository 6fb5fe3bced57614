//! Whether a thread that serves connections gets on.
//!
//! A thread with much to do answers late, and does not hang: what it is asked stands behind all that came before. So whoever
//! asks looks at the polls of its connections as well. One that is blocked takes no turn to its end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

/// Between two looks at the polls of a thread that has not answered.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The first may have begun long before.
const MIN_POLLS: u64 = 2;

/// The polls of what a thread serves, as far as they have ended. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Does the work, and counts its polls.
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

    /// Completes once polls that began after the call have ended. Cancellation safe.
    async fn makes_progress(&self) {
        let before = self.polls();
        while self.polls() < before.saturating_add(MIN_POLLS) {
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// A thread, and how it gets on.
#[derive(Clone, Debug)]
pub(crate) struct WorkerProbe {
    /// Where its tasks run.
    pub(crate) runtime: Handle,
    pub(crate) progress: Progress,
}

impl WorkerProbe {
    /// Completes once the thread has done something that was asked of it, or has got on with what it has to do; never while it is
    /// blocked, or once it is gone. Cancellation safe.
    pub(crate) async fn responds(&self) {
        let asked = self.runtime.spawn(async {});
        let answered = async {
            if asked.await.is_err() {
                // The thread is gone, and whoever runs the listener will hear of it.
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
        // Nobody drives it: whatever it is asked waits for ever.
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
