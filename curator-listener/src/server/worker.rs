//! Threads that serve connections, each with a runtime and connections to the leader of its own.
//!
//! A forwarded call wakes two connections. On one thread the second wakeup is a push onto a queue; between threads it is a
//! system call, and costs as much as all the rest of the call.

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
use crate::server::progress::{Progress, WorkerProbe};
use crate::server::sockets::IncomingStream;
use crate::server::tls::HandshakeLimiter;

/// Connections that may wait for a thread to take them.
const QUEUE_LENGTH: usize = 64;

/// A connection on its way to a worker, and its place among those that may be open.
pub(crate) type Accepted = (IncomingStream, ConnectionPermit);

/// Where the connections of one worker are served.
pub(crate) struct Worker {
    /// The way to it. Once all of them are gone, the worker ends with its last connection.
    connections: mpsc::Sender<Accepted>,
    /// What does its work.
    pub(crate) probe: WorkerProbe,
    start: oneshot::Sender<Start>,
    ended: Ended,
}

/// Completes with the worker, and panics if it did.
type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a worker begins with.
struct Start {
    shared: Arc<Shared>,
    /// Its number.
    worker: usize,
    /// Cuts what is left.
    cut: CancellationToken,
}

impl Worker {
    /// One that runs where its maker does.
    pub(crate) fn here() -> Self {
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

    /// One with a thread of its own, which waits for [`start`](Self::start).
    pub(crate) async fn on_thread(number: usize) -> io::Result<Self> {
        let (connections, queue) = mpsc::channel(QUEUE_LENGTH);
        let (start, started) = oneshot::channel();
        let (made, runtime) = oneshot::channel();
        let (done, ended) = oneshot::channel::<()>();
        let name = format!("listener-{number}");
        let progress = Progress::default();
        let counted = progress.clone();
        let thread = thread::Builder::new().name(name).spawn(move || {
            // Made and dropped there: a runtime must not be dropped within another one.
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
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended before it began")))?;
        let ended = Box::pin(async move {
            let _ = ended.await;
            // It has nothing left to do; a panic goes on here, where it is noticed.
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

    /// Begins to serve; `tasks` ends with it. Returns the way to it.
    pub(crate) fn start(
        self,
        shared: Arc<Shared>,
        worker: usize,
        cut: CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> mpsc::Sender<Accepted> {
        // If it is gone already, `ended` says so.
        let _ = self.start.send(Start { shared, worker, cut });
        tasks.spawn(self.ended);
        self.connections
    }
}

/// Waits for its start, then serves connections until no more can come and the last one has ended, or all are cut.
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
                    Some((stream, permit)) => {
                        let (shared, handshakes, progress) = (shared.clone(), handshakes.clone(), progress.clone());
                        connections.spawn(async move {
                            progress.of(serve(stream, permit, &shared, worker, &handshakes)).await;
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
