//! Worker threads, each with its own runtime and its own connections to the leader.
//!
//! A forwarded call wakes two connections. On the same thread the second wakeup is a push onto a queue. Across
//! threads it is a system call, which costs as much as the rest of the call.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::server::admission::ConnectionPermit;
use crate::server::connection::{Shared, serve};
use crate::server::incoming::IncomingConnection;
use crate::server::progress::{Progress, WorkerProbe};
use crate::server::tls::HandshakeLimiter;

/// The maximum number of connections that wait for a worker.
const QUEUE_LENGTH: usize = 64;

/// An accepted connection and its permit.
pub(crate) type Accepted = (IncomingConnection, ConnectionPermit);

/// A worker that serves connections.
pub(crate) struct Worker {
    /// The queue of the worker. When all senders are dropped, the worker ends with its last connection.
    connections: mpsc::Sender<Accepted>,
    /// Probes whether the worker is blocked.
    pub(crate) probe: WorkerProbe,
    start: oneshot::Sender<Start>,
    ended: Ended,
}

/// Completes when the worker ends, and panics if the worker did.
type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a worker needs to start.
struct Start {
    shared: Arc<Shared>,
    /// The index of the worker.
    worker: usize,
    /// Closes the remaining connections.
    cut: CancellationToken,
}

impl Worker {
    /// Workers on this many threads of their own; with 0, one on the current runtime.
    pub(crate) async fn start_all(threads: usize) -> io::Result<Vec<Self>> {
        if threads == 0 {
            return Ok(vec![Self::here()]);
        }
        let mut workers = Vec::with_capacity(threads);
        for number in 0..threads {
            workers.push(Self::on_thread(number).await?);
        }
        Ok(workers)
    }

    /// A worker on the current runtime.
    fn here() -> Self {
        let (connections, queue) = mpsc::channel(QUEUE_LENGTH);
        let (start, started) = oneshot::channel();
        let progress = Progress::default();
        Self {
            connections,
            start,
            ended: Box::pin(run(queue, started, progress.clone())),
            probe: WorkerProbe {
                runtime: Handle::current(),
                progress,
            },
        }
    }

    /// A worker with its own thread. It waits for [`start`](Self::start).
    async fn on_thread(number: usize) -> io::Result<Self> {
        let (connections, queue) = mpsc::channel(QUEUE_LENGTH);
        let (start, started) = oneshot::channel();
        let (made, runtime) = oneshot::channel();
        let (done, ended) = oneshot::channel::<()>();
        let name = format!("listener-{number}");
        let progress = Progress::default();
        let counted = progress.clone();
        let thread = thread::Builder::new().name(name).spawn(move || {
            // Created and dropped on the thread: a runtime must not be dropped within another one.
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = made.send(Err(error));
                    return;
                }
            };
            let _ = made.send(Ok(runtime.handle().clone()));
            runtime.block_on(run(queue, started, counted));
            drop(done);
        })?;
        let runtime = runtime
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the worker thread ended during its start")))?;
        let ended = Box::pin(async move {
            let _ = ended.await;
            // The thread has ended; resume its panic here, where it is noticed.
            if let Ok(Err(panic)) = spawn_blocking(|| thread.join()).await {
                std::panic::resume_unwind(panic);
            }
        });
        Ok(Self {
            connections,
            probe: WorkerProbe { runtime, progress },
            start,
            ended,
        })
    }

    /// Starts to serve. `tasks` gets a task that ends with the worker. Returns the queue of the worker.
    pub(crate) fn start(
        self,
        shared: Arc<Shared>,
        worker: usize,
        cut: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> mpsc::Sender<Accepted> {
        // If the worker is gone, `ended` reports it.
        let _ = self.start.send(Start { shared, worker, cut });
        tasks.spawn(self.ended);
        self.connections
    }
}

/// Waits for the start, then serves connections until the queue is closed and the last one has ended, or until all
/// are cut.
async fn run(mut queue: mpsc::Receiver<Accepted>, started: oneshot::Receiver<Start>, progress: Progress) {
    let Ok(Start { shared, worker, cut }) = started.await else {
        return;
    };
    let (mut connections, handshakes) = (JoinSet::new(), HandshakeLimiter::default());
    let serving = async {
        let mut open = true;
        while open || !connections.is_empty() {
            tokio::select! {
                accepted = queue.recv(), if open => match accepted {
                    Some((connection, permit)) => {
                        let (shared, handshakes, progress) = (shared.clone(), handshakes.clone(), progress.clone());
                        connections.spawn(async move {
                            progress.of(serve(connection, permit, &shared, worker, &handshakes)).await;
                        });
                    }
                    None => open = false,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = cut.cancelled() => {}
    }
    connections.shutdown().await;
}
