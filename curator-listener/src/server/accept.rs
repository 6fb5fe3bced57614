//! Accepting connections. Errors of single connections do not stop it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::server::admission::ConnectionLimiter;
use crate::server::sockets::Acceptor;
use crate::server::worker::Accepted;

/// How long to wait when the system has no resources to accept a connection.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Minimum interval between two log lines about the same problem.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections and distributes them over the workers, until cancelled or a worker has ended.
pub(crate) async fn accept(
    mut socket: Acceptor,
    limiter: Arc<ConnectionLimiter>,
    workers: Vec<mpsc::Sender<Accepted>>,
    stopping: CancellationToken,
) {
    // One kind of problem must not suppress the log of the other.
    let (mut complaint, mut refusals) = (LogLimiter::default(), LogLimiter::default());
    let mut next_worker = workers.iter().cycle();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(connection) => {
                let peer = connection.peer();
                let permit = match limiter.take(peer.ip()) {
                    Ok(permit) => permit,
                    Err(why) => {
                        refusals.say(|| warn!(%peer, %why, "connection refused"));
                        continue;
                    }
                };
                let Some(worker) = next_worker.next() else {
                    continue;
                };
                tokio::select! {
                    () = stopping.cancelled() => return,
                    sent = worker.send((connection, permit)) => if sent.is_err() {
                        warn!("a worker has ended");
                        return;
                    },
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                complaint.say(|| warn!(%error, "cannot accept connections; open connections are not affected"));
                sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

/// Whether the connection was closed before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Limits how often a problem is logged.
#[derive(Default)]
struct LogLimiter(Option<Instant>);

impl LogLimiter {
    fn say(&mut self, log: impl FnOnce()) {
        if self.0.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            self.0 = Some(Instant::now());
            log();
        }
    }
}
