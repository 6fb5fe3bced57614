//! Taking connections from a socket, whatever goes wrong with single ones.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{Shared, serve};

/// How long to wait when the system has nothing left to accept a connection with.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two log lines on the same trouble.
const QUIET: Duration = Duration::from_secs(10);

/// Accepts and serves connections until cancelled; then waits for those that are open. They are cut when this is dropped.
pub(crate) async fn accept(socket: TcpListener, shared: Arc<Shared>, stopping: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut complaint = Complaint::default();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = socket.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = shared.connections.enter() else {
                    let limit = shared.connections.limit();
                    complaint.say(|| warn!(%peer, limit, "connection refused: as many as may are open"));
                    continue;
                };
                let shared = shared.clone();
                connections.spawn(async move {
                    serve(stream, &shared).await;
                    drop(seat);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                complaint.say(|| warn!(%error, "cannot accept connections at the moment; those that are open go on"));
                sleep(PAUSE).await;
            }
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

/// The connection was gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Says things once in a while.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn say(&mut self, log: impl FnOnce()) {
        if self.0.is_none_or(|last| last.elapsed() >= QUIET) {
            self.0 = Some(Instant::now());
            log();
        }
    }
}
