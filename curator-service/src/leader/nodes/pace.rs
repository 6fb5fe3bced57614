//! Rate limits of the writes of nodes: per node, and of all nodes together.
//!
//! The store keeps every written value until compaction, so a node that keeps changing its record would fill the store,
//! however small the record is. A write costs the size of the record, which is written as a whole. Beyond a burst, a
//! write waits for its turn. Per node, one write of each kind waits; a newer one supersedes it, so the newest is
//! written.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curator_election::clock::{Instant, SharedClock};
use tokio::sync::oneshot;
use tonic::Status;

use crate::telemetry;

/// The rate of one node, in bytes per second, and its burst.
const OF_NODE: Rate = Rate {
    bytes: 4 << 10,
    burst: 256 << 10,
};
/// The rate of all nodes together. It suffices for 10,000 nodes that report once per minute. In five minutes it writes
/// a sixth of etcd's default quota.
const OF_ALL: Rate = Rate {
    bytes: 1 << 20,
    burst: 32 << 20,
};
/// The overhead of a change in the store, besides the record.
const OVERHEAD: usize = 512;

/// What a node changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::leader) enum Kind {
    Status,
    Networking,
    Certificate,
}

/// A rate and a burst.
#[derive(Clone, Copy)]
struct Rate {
    bytes: usize,
    burst: usize,
}

impl Rate {
    fn time(self, bytes: usize) -> Duration {
        Duration::from_secs(bytes as u64) / u32::try_from(self.bytes).unwrap_or(u32::MAX)
    }

    /// Until when a write has to wait, if earlier writes are paid for until `paid`.
    fn from(self, paid: Instant) -> Instant {
        paid - self.time(self.burst)
    }
}

/// The rate limits of one term.
pub(in crate::leader) struct Pace {
    clock: SharedClock,
    paces: Mutex<Paces>,
}

struct Paces {
    /// When all earlier writes are paid for.
    paid: Instant,
    nodes: HashMap<String, Node>,
}

struct Node {
    paid: Instant,
    waiting: [Option<oneshot::Sender<()>>; 3],
}

impl Pace {
    pub(in crate::leader) fn new(clock: SharedClock) -> Self {
        let now = clock.now();
        Self {
            clock,
            paces: Mutex::new(Paces {
                paid: now,
                nodes: HashMap::new(),
            }),
        }
    }

    /// Waits until the node may write a record of this size. Cancellation safe: a cancelled write is not counted.
    pub(in crate::leader) async fn turn(&self, id: &str, kind: Kind, bytes: usize) -> Result<(), Status> {
        let (place, mut overtaken) = oneshot::channel();
        let mut place = Some(place);
        let mut waits = false;
        loop {
            let until = match self.take(id, kind, bytes + OVERHEAD, &mut place) {
                Ok(()) => return Ok(()),
                Err(until) => until,
            };
            if !std::mem::replace(&mut waits, true) {
                metrics::counter!(telemetry::WRITES_PACED).increment(1);
            }
            tokio::select! {
                () = self.clock.sleep_until(until) => {}
                _ = &mut overtaken => return Err(Status::aborted(
                    "write rate limit of this node exceeded; a newer change superseded this one"
                )),
            }
        }
    }

    /// Takes the turn, or returns when to try again.
    fn take(&self, id: &str, kind: Kind, bytes: usize, place: &mut Option<oneshot::Sender<()>>) -> Result<(), Instant> {
        let now = self.clock.now();
        let mut paces = self.paces();
        let paces = &mut *paces;
        let node = paces.nodes.entry(id.to_owned()).or_insert_with(|| Node {
            paid: now,
            waiting: [None, None, None],
        });
        // A newer write supersedes the waiting one, which is notified.
        if let Some(place) = place.take() {
            node.waiting[kind as usize] = Some(place);
        }
        let until = OF_NODE.from(node.paid).max(OF_ALL.from(paces.paid));
        if until > now {
            return Err(until);
        }
        node.paid = node.paid.max(now) + OF_NODE.time(bytes);
        paces.paid = paces.paid.max(now) + OF_ALL.time(bytes);
        node.waiting[kind as usize] = None;
        Ok(())
    }

    /// Forgets a deleted node.
    pub(in crate::leader) fn forget(&self, id: &str) {
        self.paces().nodes.remove(id);
    }

    fn paces(&self) -> MutexGuard<'_, Paces> {
        // No code panics while it holds the lock.
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use curator_election::clock::{Clock, TokioClock};
    use futures::FutureExt;
    use tonic::Code;

    use super::*;

    /// The size of a record that costs one KiB.
    const RECORD: usize = 1_024 - OVERHEAD;

    fn pace() -> (Arc<TokioClock>, Pace) {
        let clock = Arc::new(TokioClock::new());
        (clock.clone(), Pace::new(clock))
    }

    /// Writes until a turn has to wait.
    fn use_up(pace: &Pace) {
        let turns = (0..1_000).take_while(|_| pace.turn("a", Kind::Status, RECORD).now_or_never().is_some());
        assert!(turns.count() < 1_000, "the loop must end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_writes_all_the_time_writes_so_much_and_no_more() {
        let (clock, pace) = pace();
        let began = clock.now();
        let mut written = 0;
        while clock.now().saturating_since(began) < Duration::from_secs(100) {
            pace.turn("a", Kind::Status, RECORD).await.unwrap();
            written += 1;
            assert!(written < 1_000, "the loop must end");
        }
        assert!(
            (656..=660).contains(&written),
            "256 KiB, and 4 KiB a second: {written} KiB"
        );
        // Other nodes do not wait because of it.
        assert!(pace.turn("b", Kind::Status, RECORD).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_write_so_much_and_no_more() {
        let (clock, pace) = pace();
        let began = clock.now();
        let mut written = 0;
        while clock.now().saturating_since(began) < Duration::from_secs(10) {
            pace.turn(&format!("{written}"), Kind::Status, RECORD).await.unwrap();
            written += 1;
            assert!(written < 50_000, "the loop must end");
        }
        assert!(
            (43_000..=43_020).contains(&written),
            "32 MiB, and 1 MiB a second: {written} KiB"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_burst_the_newest_is_written() {
        let (_, pace) = pace();
        use_up(&pace);
        let mut older = Box::pin(pace.turn("a", Kind::Status, RECORD));
        assert!(older.as_mut().now_or_never().is_none());
        let mut newer = Box::pin(pace.turn("a", Kind::Status, RECORD));
        assert!(newer.as_mut().now_or_never().is_none());
        let told = older.now_or_never().expect("at once").unwrap_err();
        assert_eq!(told.code(), Code::Aborted);
        // A write of another kind waits independently.
        let mut other = Box::pin(pace.turn("a", Kind::Networking, RECORD));
        assert!(other.as_mut().now_or_never().is_none());
        newer.await.unwrap();
        other.await.unwrap();
        pace.forget("a");
        assert!(pace.paces().nodes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_has_written_nothing() {
        let (clock, pace) = pace();
        use_up(&pace);
        let began = clock.now();
        for _ in 0..100 {
            assert!(pace.turn("a", Kind::Status, RECORD).now_or_never().is_none());
        }
        pace.turn("a", Kind::Status, RECORD).await.unwrap();
        assert!(clock.now().saturating_since(began) < Duration::from_secs(1));
    }
}
