//! Two processes with one id, as of a disk image that was copied, on the model of etcd: one of them leads, for good.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use curator_election::clock::TokioClock;
use curator_election::memory::{Faults, Link, MemoryCluster};
use curator_election::{
    DecodeError, ElectionStatus, Elector, ElectorConfig, LeaderValue, PlainText, Process, Reason, StoreElection,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const TTL: Duration = Duration::from_secs(3);
/// Within which whoever can lead does: a lease that runs out, its scan, and the longest pause.
const SOON: Duration = Duration::from_secs(15);

struct Running<V> {
    status: watch::Receiver<ElectionStatus<V>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl<V: LeaderValue> Running<V> {
    fn start(cluster: &MemoryCluster, node: usize, value: &V) -> Self {
        let seed = u64::try_from(node).unwrap();
        let store = Arc::new(cluster.client(node));
        let backend = Arc::new(StoreElection::new(store, "/leader", TTL / 3).with_seed(seed));
        let config = ElectorConfig {
            ttl: TTL,
            clock: Arc::new(TokioClock::new()),
            seed: Some(seed),
            ..ElectorConfig::default()
        };
        let elector = Elector::new(backend, value, config).unwrap();
        let cancel = CancellationToken::new();
        Self {
            status: elector.handle().status(),
            task: tokio::spawn(elector.run(cancel.clone())),
            cancel,
        }
    }

    fn leads(&self) -> bool {
        self.status.borrow().valid_term().is_some()
    }

    async fn leading(&mut self) {
        let leading = self.status.wait_for(|status| status.valid_term().is_some());
        timeout(SOON, leading).await.expect("leads in time").unwrap();
    }

    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    async fn resign(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

/// How often a key of the election was put or removed.
fn changes(cluster: &MemoryCluster) -> i64 {
    cluster.with_model(|model, _| model.revision().0)
}

#[tokio::test(start_paused = true)]
async fn of_two_processes_with_one_id_that_say_nothing_of_themselves_one_leads_for_good() {
    let cluster = MemoryCluster::new(1);
    let value = PlainText("node-1".into());
    let mut elder = Running::start(&cluster, 0, &value);
    elder.leading().await;
    let younger = Running::start(&cluster, 1, &value);
    let began = changes(&cluster);
    sleep(Duration::from_secs(60)).await;
    let writes = changes(&cluster) - began;
    assert!(
        writes <= 4,
        "the election's keys changed {writes} times within a minute"
    );
    let leads = [&elder, &younger].map(Running::leads);
    assert!(leads[0] != leads[1], "{leads:?}");
    let (leader, mut other) = if leads[0] { (elder, younger) } else { (younger, elder) };
    leader.resign().await;
    other.leading().await;
}

/// A value that says which process it is of.
#[derive(Clone, Debug, PartialEq)]
struct Said(Process);

impl LeaderValue for Said {
    fn candidate_id(&self) -> &'static str {
        "node-1"
    }

    fn process(&self) -> Process {
        self.0.clone()
    }

    fn encode(&self) -> Vec<u8> {
        let Process { number, address, boot } = &self.0;
        format!("{number} {address} {boot}").into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(DecodeError::new)?;
        let mut parts = text.split(' ').map(str::to_owned);
        let mut part = || parts.next().ok_or_else(|| DecodeError::new("a part is missing"));
        Ok(Self(Process {
            number: part()?,
            address: part()?,
            boot: part()?,
        }))
    }
}

fn said(number: &str, address: &str, boot: &str) -> Said {
    Said(Process {
        number: number.into(),
        address: address.into(),
        boot: boot.into(),
    })
}

/// The elder one leads on in its term; the younger one is there when it has gone.
async fn elder_leads_on(younger: &Said) {
    let cluster = MemoryCluster::new(1);
    let mut elder = Running::start(&cluster, 0, &said("a", "h:1", "boot-1"));
    elder.leading().await;
    let term = elder.status.borrow().valid_term().expect("just won").clone();
    let mut younger = Running::start(&cluster, 1, younger);
    let began = changes(&cluster);
    sleep(Duration::from_secs(60)).await;
    assert!(term.is_valid(), "the elder one has lost its term");
    assert_eq!(changes(&cluster), began, "the election's keys have changed");
    assert_eq!([&elder, &younger].map(Running::leads), [true, false]);
    let reason = match &*younger.status.borrow() {
        ElectionStatus::Undetermined(reason @ Reason::Duplicate(_)) => reason.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(reason.contains("at h:1 (this process:"), "{reason}");
    elder.resign().await;
    younger.leading().await;
}

#[tokio::test(start_paused = true)]
async fn elder_leads_on_beside_a_process_at_another_address() {
    elder_leads_on(&said("b", "h:2", "boot-2")).await;
}

#[tokio::test(start_paused = true)]
async fn elder_leads_on_beside_a_process_of_another_boot_that_names_the_same_address() {
    elder_leads_on(&said("b", "h:1", "boot-2")).await;
}

#[tokio::test(start_paused = true)]
async fn process_that_was_killed_and_started_again_does_not_wait_for_its_lease() {
    let cluster = MemoryCluster::new(1);
    let mut first = Running::start(&cluster, 0, &said("a", "h:1", "boot-1"));
    first.leading().await;
    first.kill().await;
    let killed = Instant::now();
    let mut second = Running::start(&cluster, 0, &said("b", "h:1", "boot-1"));
    second.leading().await;
    assert!(killed.elapsed() < TTL / 10, "{:?}", killed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn process_whose_address_has_changed_waits_for_its_earlier_lease_and_leads() {
    let cluster = MemoryCluster::new(1);
    let mut first = Running::start(&cluster, 0, &said("a", "h:1", "boot-1"));
    first.leading().await;
    first.kill().await;
    let killed = Instant::now();
    let mut second = Running::start(&cluster, 0, &said("b", "h:2", "boot-1"));
    second.leading().await;
    assert!(killed.elapsed() <= 2 * TTL, "{:?}", killed.elapsed());
    assert!(second.leads());
}

/// Seeds of when they start, stop and go on, and of lost connections: whoever leads, the keys change seldom, and at
/// last one leads.
#[test]
fn two_that_start_at_once_settle_whatever_the_network_does() {
    for seed in 0..200 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut rng = StdRng::seed_from_u64(seed);
            let cluster = MemoryCluster::new(seed);
            let says: bool = rng.random();
            let value = |number: usize| {
                if says {
                    said(&number.to_string(), &format!("h:{number}"), "boot")
                } else {
                    said("", "", "")
                }
            };
            let both = [0, 1].map(|number| Running::start(&cluster, number, &value(number)));
            let mut faults = 0;
            for _ in 0..rng.random_range(0..8) {
                sleep(Duration::from_millis(rng.random_range(0..2_000))).await;
                let link = [Link::Up, Link::Cut, Link::RepliesLost][rng.random_range(0..3)];
                let faults_now = Faults {
                    link,
                    ..Faults::default()
                };
                cluster.set_faults(rng.random_range(0..2), faults_now);
                faults += 1;
            }
            for node in 0..2 {
                cluster.set_faults(node, Faults::default());
            }
            sleep(SOON).await;
            let began = changes(&cluster);
            sleep(Duration::from_secs(60)).await;
            let leads = [&both[0], &both[1]].map(Running::leads);
            assert!(leads[0] != leads[1], "seed {seed}, {faults} faults: {leads:?}");
            assert_eq!(
                changes(&cluster),
                began,
                "seed {seed}: the election's keys have changed"
            );
        });
    }
}
