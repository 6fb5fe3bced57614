//! Callers who mean well: an owner who looks at the cluster, and a node that is alive, through a leader and a follower.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use curator_proto::curator_api::HeartbeatRequest;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{GetClusterInfoRequest, GetNodesRequest};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::test_cluster::SOON;
use crate::tls::cluster::{Node, TlsCluster, Who, bounded};

/// Between two calls of one of them.
const PAUSE: Duration = Duration::from_millis(5);
/// Before one that found no leader asks again.
const AGAIN: Duration = Duration::from_millis(20);

/// How an honest caller finds it.
pub(super) const WAYS: [&str; 2] = ["leader", "follower"];

/// They, on threads of their own.
pub(super) struct Honest {
    runtime: Runtime,
    /// Each way's connections: the owner's and the node's.
    channels: Vec<(Channel, Channel)>,
}

/// What they do.
const KINDS: [&str; 3] = ["nodes", "cluster", "heartbeat"];

/// How long what they did took, each way, the fastest first.
pub(super) struct Times(Vec<Vec<(Duration, usize)>>);

impl Times {
    /// The time that one in a hundred took longer than.
    pub(super) fn p99(&self, way: usize) -> Duration {
        let times = &self.0[way];
        times[times.len() * 99 / 100].0
    }

    pub(super) fn slowest(&self, way: usize) -> Duration {
        self.0[way].last().map_or(Duration::ZERO, |(time, _)| *time)
    }

    /// The longest of each kind.
    pub(super) fn longest(&self, way: usize) -> String {
        let longest = |kind| self.0[way].iter().rev().find(|(_, of)| *of == kind).copied();
        let told = (0..KINDS.len()).map(|kind| {
            let time = longest(kind).map_or(Duration::ZERO, |(time, _)| time);
            format!("{} {:.0}", KINDS[kind], time.as_secs_f64() * 1e3)
        });
        told.collect::<Vec<_>>().join(", ")
    }
}

type Seen = Arc<Mutex<Vec<(Duration, usize)>>>;

impl Honest {
    /// The owner and a node that call these instances.
    pub(super) fn new(cast: &TlsCluster, node: &Node, instances: [usize; 2]) -> Self {
        let channel = |who: Who<'_>, instance| cast.channel(who, cast.address(instance));
        let channels = instances.map(|at| (channel(Who::Owner, at), channel(Who::Node(node), at)));
        Self {
            runtime: Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            channels: channels.into(),
        }
    }

    /// What they see within this time. Each of their calls must be answered.
    pub(super) fn watch(&self, lasts: Duration) -> Times {
        let until = Instant::now() + lasts;
        let seen: Vec<Seen> = self.channels.iter().map(|_| Seen::default()).collect();
        let mut tasks = JoinSet::new();
        for ((owner, node), seen) in self.channels.iter().zip(&seen) {
            let (owner, on) = (ManagementClient::new(owner.clone()), self.runtime.handle());
            let nodes = |mut owner: ManagementClient<Channel>| async move {
                let mut answers = owner.get_nodes(bounded(GetNodesRequest::default())).await?.into_inner();
                while answers.message().await?.is_some() {}
                Ok(())
            };
            let info = |mut owner: ManagementClient<Channel>| async move {
                owner
                    .get_cluster_info(bounded(GetClusterInfoRequest {}))
                    .await
                    .map(drop)
            };
            tasks.spawn_on(again_and_again(owner.clone(), nodes, 0, until, seen.clone()), on);
            tasks.spawn_on(again_and_again(owner, info, 1, until, seen.clone()), on);
            tasks.spawn_on(heartbeats(CuratorClient::new(node.clone()), until, seen.clone()), on);
        }
        self.runtime.block_on(async {
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
        let sorted = |seen: Seen| {
            let mut times = std::mem::take(&mut *seen.lock().unwrap());
            times.sort_unstable();
            assert!(times.len() > 10, "they have hardly been served: {}", times.len());
            times
        };
        Times(seen.into_iter().map(sorted).collect())
    }
}

/// Calls until then, one call after the other.
async fn again_and_again<C: Clone, F>(client: C, call: impl Fn(C) -> F, kind: usize, until: Instant, seen: Seen)
where
    F: Future<Output = Result<(), Status>>,
{
    while Instant::now() < until {
        let began = Instant::now();
        insist(|| call(client.clone())).await;
        seen.lock().unwrap().push((began.elapsed(), kind));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whoever finds the leader gone in the middle of a call asks again; all else is a failure.
async fn insist<F>(call: impl Fn() -> F)
where
    F: Future<Output = Result<(), Status>>,
{
    let began = Instant::now();
    while let Err(status) = call().await {
        assert_eq!(status.code(), Code::Unavailable, "an honest call failed: {status}");
        assert!(
            began.elapsed() < SOON,
            "an honest call failed again and again: {status}"
        );
        tokio::time::sleep(AGAIN).await;
    }
}

/// Heartbeats on a stream, each after the answer to the one before.
async fn heartbeats(client: CuratorClient<Channel>, until: Instant, seen: Seen) {
    insist(|| async {
        let (beat, beats) = tokio::sync::mpsc::channel(1);
        let _ = beat.try_send(HeartbeatRequest {});
        let mut began = Instant::now();
        let mut client = client.clone();
        let mut answers = client.heartbeat(ReceiverStream::new(beats)).await?.into_inner();
        loop {
            let answer = tokio::time::timeout(SOON, answers.message());
            match answer.await.expect("a heartbeat is answered")? {
                Some(_) => seen.lock().unwrap().push((began.elapsed(), 2)),
                None => return Err(Status::unavailable("the stream has ended")),
            }
            if Instant::now() >= until {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
            began = Instant::now();
            let _ = beat.try_send(HeartbeatRequest {});
        }
    })
    .await;
}
