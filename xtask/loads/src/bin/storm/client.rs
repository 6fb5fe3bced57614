//! One node's client, as those of a cluster are: it watches all nodes, sends heartbeats, and begins again when either ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::watch_request::{Kind, NodesInCluster};
use curator_proto::curator_api::{HeartbeatRequest, WatchRequest};
use curator_service::TEST_CALLER;
use futures::StreamExt as _;
use prost::Message;
use tokio::sync::{Notify, watch};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::nodes::id;
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
}

impl Told {
    pub(crate) fn complete(&self) -> usize {
        self.complete.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        self.complete.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.again.store(0, Ordering::Relaxed);
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) nodes: usize,
    pub(crate) instances: Vec<SocketAddr>,
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
            // However it has ended, it begins again.
            let _ = self.watch(at, &mut counted).await;
            if counted != before {
                pause = FIRST_PAUSE;
            }
            self.told.again.fetch_add(1, Ordering::Relaxed);
            // Another instance.
            at += 1;
            tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Failure> {
        let mut request = Request::new(message);
        let caller = AsciiMetadataValue::try_from(format!("node {}", id(self.number + 1)))?;
        request.metadata_mut().insert(TEST_CALLER, caller);
        Ok(request)
    }

    async fn watch(&self, at: usize, counted: &mut Option<u64>) -> Result<(), Failure> {
        let address = self.instances[at % self.instances.len()];
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = endpoint.connect_timeout(Duration::from_secs(10)).connect().await?;
        let heart = self.heartbeats(channel.clone());
        tokio::select! {
            ended = self.events(channel, counted) => ended,
            ended = heart => ended,
        }
    }

    async fn events(&self, channel: Channel, counted: &mut Option<u64>) -> Result<(), Failure> {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await?;
        let message = WatchRequest {
            kind: Some(Kind::NodesInCluster(NodesInCluster {})),
        };
        let codec = ProstCodec::<WatchRequest, Event>::default();
        let request = self.request(message)?;
        let answer = grpc
            .server_streaming(request, PathAndQuery::from_static(WATCH), codec)
            .await?;
        let mut events = answer.into_inner();
        let mut seen = 0;
        while let Some(event) = events.next().await {
            let event: Event = event?;
            seen += event.nodes.len();
            let bytes: usize = event.nodes.iter().map(Bytes::len).sum();
            self.told.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            if event.progress == 1 {
                if seen < self.nodes {
                    return Err(Status::data_loss(format!("{seen} nodes of {}", self.nodes)).into());
                }
                let round = Some(*self.rounds.borrow());
                if std::mem::replace(counted, round) != round {
                    self.told.complete.fetch_add(1, Ordering::Relaxed);
                    self.told.changed.notify_one();
                }
            }
        }
        Ok(())
    }

    async fn heartbeats(&self, channel: Channel) -> Result<(), Failure> {
        let beats = futures::stream::unfold((), async |()| {
            tokio::time::sleep(HEARTBEAT).await;
            Some((HeartbeatRequest {}, ()))
        });
        let mut heard = CuratorClient::new(channel)
            .heartbeat(self.request(beats)?)
            .await?
            .into_inner();
        while let Some(beat) = heard.next().await {
            beat?;
        }
        Ok(())
    }
}
