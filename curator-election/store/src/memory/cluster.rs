//! The model on tokio's clock, with clients that are subject to faults.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::faults::{Fate, Faults, Link};
use super::model::{Model, Snapshot};
use crate::clock::{Clock, Instant, TokioClock};
use crate::{
    Keys, Lease, LeaseId, Range, RangeResult, Revision, Store, StoreError, TimeToLive, Txn, TxnResult, WatchStream,
};

/// How often expired leases are removed, as in etcd.
const LEASE_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// How often a cut-off watch checks whether its link is up again.
const LINK_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A model of etcd that clients share. Create it within a tokio runtime.
#[derive(Debug)]
pub struct MemoryCluster {
    shared: Arc<Shared>,
    scan: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    clock: TokioClock,
    revisions: watch::Sender<Revision>,
}

#[derive(Debug)]
struct State {
    model: Model,
    rng: StdRng,
    clients: Vec<Way>,
}

impl State {
    /// Draws the faults of the next call of a client.
    fn draw(&mut self, number: usize) -> Fate {
        self.clients[number].faults.draw(&mut self.rng)
    }
}

/// The faults of a client, and how often its watches were closed.
#[derive(Debug, Default)]
struct Way {
    faults: Faults,
    closed: u64,
}

impl MemoryCluster {
    /// An empty store; equal seeds give equal faults and lease ids.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let model = Model::new(seed);
        let shared = Arc::new(Shared {
            revisions: watch::Sender::new(model.revision()),
            state: Mutex::new(State {
                model,
                rng: StdRng::seed_from_u64(seed),
                clients: Vec::new(),
            }),
            clock: TokioClock::new(),
        });
        let scanned = shared.clone();
        let scan = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE_CHECK_INTERVAL).await;
                scanned.with_model(Model::expire);
            }
        });
        Self { shared, scan }
    }

    /// The client with this number. Clients with equal numbers share their faults.
    #[must_use]
    pub fn client(&self, number: usize) -> MemoryClient {
        let mut state = self.shared.state();
        let count = state.clients.len().max(number + 1);
        state.clients.resize_with(count, Way::default);
        MemoryClient {
            shared: self.shared.clone(),
            number,
            call_timeout: Duration::from_secs(1),
            silence: Duration::from_secs(2),
        }
    }

    /// Reads or changes the model directly, without faults, at the store's time.
    pub fn with_model<T>(&self, act: impl FnOnce(&mut Model, Instant) -> T) -> T {
        self.shared.with_model(act)
    }

    /// Sets the store back to a snapshot, as a restore of a backup does: all watches break.
    pub fn restore(&self, snapshot: Snapshot) {
        self.with_model(|model, now| model.go_back_to(snapshot, now));
        for client in &mut self.shared.state().clients {
            client.closed += 1;
        }
    }

    /// Replaces the faults of a client.
    pub fn set_faults(&self, number: usize, faults: Faults) {
        if let Some(client) = self.shared.state().clients.get_mut(number) {
            client.faults = faults;
        }
    }

    /// Closes all watches of a client.
    pub fn close_watches(&self, number: usize) {
        if let Some(client) = self.shared.state().clients.get_mut(number) {
            client.closed += 1;
        }
    }
}

impl Drop for MemoryCluster {
    fn drop(&mut self) {
        self.scan.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics while it holds the lock has failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_model<T>(&self, act: impl FnOnce(&mut Model, Instant) -> T) -> T {
        let mut state = self.state();
        let result = act(&mut state.model, self.clock.now());
        let revision = state.model.revision();
        drop(state);
        self.revisions
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
        result
    }
}

/// One client of a [`MemoryCluster`]. Every call returns within a second; a watch ends two seconds after its link is
/// cut.
#[derive(Clone, Debug)]
pub struct MemoryClient {
    shared: Arc<Shared>,
    number: usize,
    call_timeout: Duration,
    silence: Duration,
}

impl MemoryClient {
    fn link(&self) -> (Link, u64) {
        let state = self.shared.state();
        let client = &state.clients[self.number];
        (client.faults.link, client.closed)
    }

    fn faults(&self) -> Faults {
        self.shared.state().clients[self.number].faults.clone()
    }

    async fn call<T>(
        &self,
        act: impl FnOnce(&mut Model, Instant) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let fate = {
            let mut state = self.shared.state();
            if state.clients[self.number].faults.link == Link::Refused {
                return Err(StoreError::Unreachable {
                    reason: "connection refused".into(),
                });
            }
            state.draw(self.number)
        };
        let call = async {
            pause(fate.request_delay).await;
            if fate.request_lost || !self.link().0.lets_requests_through() {
                std::future::pending::<()>().await;
            }
            let result = self.shared.with_model(act);
            pause(fate.reply_delay).await;
            if fate.reply_lost || !self.link().0.lets_replies_through() {
                std::future::pending::<()>().await;
            }
            result
        };
        let timed = tokio::time::timeout(self.call_timeout, call).await;
        timed.unwrap_or_else(|_| {
            Err(StoreError::Unknown {
                reason: "no reply within a second".into(),
            })
        })
    }
}

/// Sleeps, without a timer for a zero delay: a timer would advance a paused clock.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[async_trait]
impl Store for MemoryClient {
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.call(move |model, _| model.txn(&txn)).await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        if self.faults().reads_hang {
            pause(self.call_timeout).await;
            return Err(StoreError::Unknown {
                reason: "no reply within a second".into(),
            });
        }
        self.call(move |model, _| model.range(&range)).await
    }

    async fn ranges(&self, ranges: Vec<Range>) -> Result<Vec<RangeResult>, StoreError> {
        if self.faults().reads_hang {
            pause(self.call_timeout).await;
            return Err(StoreError::Unknown {
                reason: "no reply within a second".into(),
            });
        }
        let reads = move |model: &mut Model, _| ranges.iter().map(|range| model.range(range)).collect();
        self.call(reads).await
    }

    async fn watch(&self, keys: Keys, from: Revision) -> Result<WatchStream, StoreError> {
        let begin = {
            let keys = keys.clone();
            self.call(move |model, _| {
                let begin = if from == Revision(0) {
                    model.revision().next()
                } else {
                    from
                };
                model.changes(&keys, begin).map(|_| begin)
            })
        };
        let begin = begin.await?;
        let watch = Watch {
            client: self.clone(),
            keys,
            next: begin,
            opened: self.link().1,
            revisions: self.shared.revisions.subscribe(),
            over: false,
        };
        let batches = futures::stream::unfold(watch, |mut watch| async move {
            if watch.over {
                return None;
            }
            let batch = watch.next().await;
            watch.over = batch.is_err();
            Some((batch, watch))
        });
        Ok(batches.boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.call(move |model, now| Ok(model.grant(now, ttl))).await
    }

    async fn keep_alive(&self, lease: LeaseId, _attempt: u32) -> Result<Duration, StoreError> {
        self.call(move |model, now| model.keep_alive(now, lease)).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<TimeToLive, StoreError> {
        self.call(move |model, now| model.time_to_live(now, lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(move |model, _| model.revoke(lease)).await
    }
}

struct Watch {
    client: MemoryClient,
    keys: Keys,
    next: Revision,
    opened: u64,
    revisions: watch::Receiver<Revision>,
    over: bool,
}

impl Watch {
    async fn next(&mut self) -> Result<crate::WatchBatch, StoreError> {
        let mut deaf = Duration::ZERO;
        loop {
            let (link, closed) = self.client.link();
            if closed != self.opened {
                return Err(StoreError::Unknown {
                    reason: "watch closed".into(),
                });
            }
            if !link.lets_replies_through() || self.client.faults().reads_hang {
                if deaf >= self.client.silence {
                    return Err(StoreError::Unknown {
                        reason: "watch receives nothing any more".into(),
                    });
                }
                tokio::time::sleep(LINK_POLL_INTERVAL).await;
                deaf += LINK_POLL_INTERVAL;
                continue;
            }
            self.revisions.mark_unchanged();
            let changes = self
                .client
                .shared
                .with_model(|model, _| model.changes(&self.keys, self.next))?;
            if let Some(batch) = changes.into_iter().next() {
                let fate = self.client.shared.state().draw(self.client.number);
                pause(fate.watch_delay).await;
                if !self.client.link().0.lets_replies_through() {
                    // The event is in transit while the link is down.
                    continue;
                }
                self.next = batch.revision.next();
                return Ok(batch);
            }
            // The sender lives as long as the client.
            let _ = tokio::time::timeout(LINK_POLL_INTERVAL, self.revisions.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Op};

    fn put(key: &'static str) -> Txn {
        Txn::default().then(vec![Op::put(key, "v")])
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_is_carried_out_all_the_same() {
        let cluster = MemoryCluster::new(1);
        let client = cluster.client(0);
        cluster.set_faults(
            0,
            Faults {
                link: Link::RepliesLost,
                ..Faults::default()
            },
        );
        assert!(matches!(client.txn(put("a")).await, Err(StoreError::Unknown { .. })));
        assert!(cluster.with_model(|model, _| model.get(b"a").is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_request_is_not() {
        let cluster = MemoryCluster::new(1);
        let client = cluster.client(0);
        for link in [Link::Cut, Link::RequestsLost] {
            cluster.set_faults(
                0,
                Faults {
                    link,
                    ..Faults::default()
                },
            );
            assert!(matches!(client.txn(put("a")).await, Err(StoreError::Unknown { .. })));
        }
        cluster.set_faults(
            0,
            Faults {
                link: Link::Refused,
                ..Faults::default()
            },
        );
        assert!(matches!(
            client.txn(put("a")).await,
            Err(StoreError::Unreachable { .. })
        ));
        assert!(cluster.with_model(|model, _| model.get(b"a").is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_within_a_scan_of_its_time() {
        let cluster = MemoryCluster::new(1);
        let client = cluster.client(0);
        let begun = tokio::time::Instant::now();
        let lease = client.grant(Duration::from_secs(2)).await.unwrap();
        let op = Op::Put {
            key: "a".into(),
            value: "v".into(),
            lease: Some(lease.id),
        };
        client.txn(Txn::default().then(vec![op])).await.unwrap();
        let mut changes = client.watch(Keys::one("a"), Revision(0)).await.unwrap();
        let batch = changes.next().await.unwrap().unwrap();
        assert!(matches!(&batch.events[..], [Event::Delete { .. }]), "{batch:?}");
        let took = begun.elapsed();
        assert!(
            Duration::from_secs(2) <= took && took <= Duration::from_millis(2_501),
            "{took:?}"
        );
        assert!(matches!(
            client.keep_alive(lease.id, 0).await,
            Err(StoreError::LeaseNotFound { .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_watch_ends_and_a_short_cut_loses_nothing() {
        let cluster = MemoryCluster::new(1);
        let (client, other) = (cluster.client(0), cluster.client(1));
        let mut changes = client.watch(Keys::one("a"), Revision(0)).await.unwrap();
        cluster.set_faults(
            0,
            Faults {
                link: Link::Cut,
                ..Faults::default()
            },
        );
        other.txn(put("a")).await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), changes.next())
            .await
            .expect_err("hears nothing");
        cluster.set_faults(0, Faults::default());
        assert!(matches!(changes.next().await, Some(Ok(_))));
        cluster.set_faults(
            0,
            Faults {
                link: Link::Cut,
                ..Faults::default()
            },
        );
        let ended = tokio::time::timeout(Duration::from_secs(3), changes.next())
            .await
            .expect("notices");
        assert!(matches!(ended, Some(Err(StoreError::Unknown { .. }))));
        assert!(changes.next().await.is_none());
    }
}
