//! One node's client, as those of a cluster are: it watches all nodes, sends heartbeats, and begins again when either
//! ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{HeartbeatRequest, WatchRequest};
use curator_service::retry_delay;
use futures::StreamExt as _;
use prost::Message;
use tokio::sync::{Notify, watch};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::access::Access;
use crate::{Count, Failure};

const WATCH: &str = "/metropolis.node.core.curator.proto.api.Curator/Watch";
/// Before another attempt: doubled each time, with as much at random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// An event, of which nothing is looked at but how many nodes it tells of.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    nodes: Vec<Bytes>,
    #[prost(int32, tag = "2")]
    progress: i32,
}

/// What all clients have been told together.
#[derive(Clone, Default)]
pub(crate) struct Told {
    complete: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    pub(crate) bytes: Count,
    /// Watches that were opened anew.
    pub(crate) again: Count,
    /// Events of nodes that have come after the backlog.
    pub(crate) news: Count,
}

impl Told {
    pub(crate) fn complete(&self) -> usize {
        self.complete.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        self.complete.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.again.store(0, Ordering::Relaxed);
        self.news.store(0, Ordering::Relaxed);
    }

    fn completes(&self) {
        self.complete.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) nodes: usize,
    pub(crate) instances: Vec<SocketAddr>,
    pub(crate) access: Access,
    /// Without a watch.
    pub(crate) only_beats: bool,
    pub(crate) told: Told,
    /// How many storms have begun.
    pub(crate) rounds: watch::Receiver<u64>,
}

impl Client {
    pub(crate) async fn run(self) {
        let (mut at, mut pause) = (self.number, FIRST_PAUSE);
        // The storm after which it was told of everything, and counted.
        let mut counted = None;
        loop {
            let before = counted;
            // However it has ended, it begins again: not before it is told, if it is told.
            let ended = self.watch(at, &mut counted).await.err();
            let status = ended.as_ref().and_then(|ended| ended.downcast_ref::<Status>());
            let told = status.and_then(retry_delay).unwrap_or_default();
            if counted != before {
                pause = FIRST_PAUSE;
            }
            self.told.again.fetch_add(1, Ordering::Relaxed);
            // Another instance.
            at += 1;
            tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>()).max(told)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn watch(&self, at: usize, counted: &mut Option<u64>) -> Result<(), Failure> {
        let address = self.instances[at % self.instances.len()];
        let channel = self.access.node(self.number, address).await?;
        if self.only_beats {
            return self.heartbeats(channel, Some(counted)).await;
        }
        let heart = self.heartbeats(channel.clone(), None);
        tokio::select! {
            ended = self.events(channel, counted) => ended,
            ended = heart => ended,
        }
    }

    /// It has all that it waits for in this storm: which it says once.
    fn completes(&self, counted: &mut Option<u64>) {
        let round = Some(*self.rounds.borrow());
        if std::mem::replace(counted, round) != round {
            self.told.completes();
        }
    }

    async fn events(&self, channel: Channel, counted: &mut Option<u64>) -> Result<(), Failure> {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await?;
        let message = WatchRequest {
            kind: Some(Kind::NodesInCluster(NodesInCluster {})),
        };
        let codec = ProstCodec::<WatchRequest, Event>::default();
        let request = self.access.of_node(self.number, message)?;
        let answer = grpc
            .server_streaming(request, PathAndQuery::from_static(WATCH), codec)
            .await?;
        let mut events = answer.into_inner();
        let mut seen = 0;
        let mut backlog = true;
        while let Some(event) = events.next().await {
            let event: Event = event?;
            seen += event.nodes.len();
            let bytes: usize = event.nodes.iter().map(Bytes::len).sum();
            self.told.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            if event.progress == 1 {
                if seen < self.nodes {
                    return Err(Status::data_loss(format!("{seen} nodes of {}", self.nodes)).into());
                }
                self.completes(counted);
                backlog = false;
            } else if !backlog && !event.nodes.is_empty() {
                self.told.news.fetch_add(1, Ordering::Relaxed);
                self.told.changed.notify_one();
            }
        }
        Ok(())
    }

    async fn heartbeats(&self, channel: Channel, mut counted: Option<&mut Option<u64>>) -> Result<(), Failure> {
        // The first one at some moment, so that not all come at the same.
        let first = HEARTBEAT.mul_f64(rand::random());
        let beats = futures::stream::unfold(first, async |wait| {
            tokio::time::sleep(wait).await;
            Some((HeartbeatRequest {}, HEARTBEAT))
        });
        let mut heard = CuratorClient::new(channel)
            .heartbeat(self.access.of_node(self.number, beats)?)
            .await?
            .into_inner();
        while let Some(beat) = heard.next().await {
            beat?;
            if let Some(counted) = &mut counted {
                self.completes(counted);
            }
        }
        Ok(())
    }
}
