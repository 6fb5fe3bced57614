//! Taking connections from a socket, whatever goes wrong with single ones.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::seats::Seats;
use super::shard::Accepted;
use super::sockets::Arrivals;

/// How long to wait when the system has nothing left to accept a connection with.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two log lines on the same trouble.
const QUIET: Duration = Duration::from_secs(10);

/// Accepts connections and gives them to the shards in turn, until cancelled or a shard is gone.
pub(crate) async fn accept(
    mut socket: Arrivals,
    seats: Arc<Seats>,
    shards: Vec<mpsc::Sender<Accepted>>,
    stopping: CancellationToken,
) {
    // One kind of trouble must not hide the other.
    let (mut complaint, mut refusals) = (Complaint::default(), Complaint::default());
    let mut turn = shards.iter().cycle();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let seat = match seats.take(peer.ip()) {
                    Ok(seat) => seat,
                    Err(why) => {
                        refusals.say(|| warn!(%peer, %why, "connection refused"));
                        continue;
                    }
                };
                let Some(shard) = turn.next() else {
                    continue;
                };
                tokio::select! {
                    () = stopping.cancelled() => return,
                    sent = shard.send((stream, seat)) => if sent.is_err() {
                        warn!("a thread that serves connections is gone");
                        return;
                    },
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                complaint.say(|| warn!(%error, "cannot accept connections at the moment; those that are open go on"));
                sleep(PAUSE).await;
            }
        }
    }
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
