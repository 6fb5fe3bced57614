//! A scheduler with one leader: two candidates, a planned change of leader, and a write that is fenced.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use curator_election::memory::MemoryCluster;
use curator_election::store::{Op, Store, Txn};
use curator_election::{ElectionStatus, Elector, ElectorConfig, PlainText, StoreElection, Term};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One scheduler.
struct Scheduler {
    status: watch::Receiver<ElectionStatus<PlainText>>,
    cancel: CancellationToken,
    running: JoinHandle<()>,
}

impl Scheduler {
    fn start(store: Arc<dyn Store>, name: &str) -> Result<Self, Box<dyn Error>> {
        let ttl = Duration::from_secs(3);
        let backend = Arc::new(StoreElection::new(store, "/scheduler/leader", ttl / 3));
        let config = ElectorConfig {
            ttl,
            ..ElectorConfig::default()
        };
        let elector = Elector::new(backend, &PlainText(name.to_owned()), config)?;
        let cancel = CancellationToken::new();
        Ok(Self {
            status: elector.handle().status(),
            running: tokio::spawn(elector.run(cancel.clone())),
            cancel,
        })
    }

    async fn leads(&mut self) -> Result<Term, Box<dyn Error>> {
        let leads = |status: &ElectionStatus<PlainText>| matches!(status, ElectionStatus::Leader(_));
        let status = self.status.wait_for(leads).await?.clone();
        Ok(status.valid_term().ok_or("the term has just ended")?.clone())
    }

    async fn stop(self) -> Result<(), Box<dyn Error>> {
        self.cancel.cancel();
        Ok(self.running.await?)
    }
}

/// Schedules a job, if the term still holds.
async fn schedule(store: &dyn Store, term: &Term, job: &str) -> Result<bool, Box<dyn Error>> {
    let txn = Txn {
        compares: vec![term.guard()],
        success: vec![Op::put("/scheduler/job", job.to_owned())],
        failure: Vec::new(),
    };
    Ok(store.txn(txn).await?.succeeded)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = MemoryCluster::new(1);
    let store: Arc<dyn Store> = Arc::new(cluster.client(0));
    let mut one = Scheduler::start(store.clone(), "one")?;
    let first = one.leads().await?;
    let mut two = Scheduler::start(Arc::new(cluster.client(1)), "two")?;
    let follows = |status: &ElectionStatus<PlainText>| matches!(status, ElectionStatus::Follower(_));
    two.status.wait_for(follows).await?;
    assert!(schedule(&*store, &first, "a job").await?, "the leader schedules");

    one.stop().await?;
    let second = two.leads().await?;
    assert!(second.lock_revision() > first.lock_revision());
    assert!(!first.is_valid());
    assert!(
        !schedule(&*store, &first, "an old job").await?,
        "the first leader is fenced out"
    );
    assert!(schedule(&*store, &second, "the next job").await?);
    two.stop().await?;
    println!("scheduler: two terms, one fenced write");
    Ok(())
}
