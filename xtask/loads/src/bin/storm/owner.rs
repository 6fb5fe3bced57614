//! The owner, who calls all the time, through one instance after the other.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::update_node_labels_request::{self, Pair};
use curator_proto::management_api::{GetClusterInfoRequest, GetNodesRequest, UpdateNodeLabelsRequest};
use curator_service::retry_delay;
use futures::future::join_all;
use tonic::transport::Channel;

use crate::Failure;
use crate::access::Access;

/// Between two calls through an instance.
const PAUSE: Duration = Duration::from_millis(50);
/// What each call is given.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Owner {
    access: Access,
    ways: Vec<Channel>,
    seen: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    took: Vec<Duration>,
    failed: u64,
    told: Option<String>,
}

/// What the owner has seen.
pub(crate) struct Seen {
    pub(crate) calls: usize,
    pub(crate) failed: u64,
    pub(crate) told: Option<String>,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) longest_ms: f64,
}

impl Owner {
    pub(crate) fn new(instances: &[SocketAddr], access: Access) -> Result<Self, Failure> {
        let ways = instances.iter().map(|address| access.owner(*address));
        Ok(Self {
            ways: ways.collect::<Result<_, _>>()?,
            access,
            seen: Mutex::default(),
        })
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clear(&self) {
        *self.calls() = Calls::default();
    }

    pub(crate) fn seen(&self) -> Seen {
        let calls = self.calls();
        let mut took = calls.took.clone();
        took.sort();
        let of = |share: f64| {
            let at = (took.len().saturating_sub(1)) as f64 * share;
            took.get(at.round() as usize)
                .map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        Seen {
            calls: took.len(),
            failed: calls.failed,
            told: calls.told.clone(),
            p50_ms: of(0.5),
            p99_ms: of(0.99),
            longest_ms: of(1.0),
        }
    }

    /// Calls until it is dropped.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let ways = join_all(self.ways.iter().map(|way| self.through(way))).await;
        ways.into_iter().collect()
    }

    /// Changes a node, and returns once that is acknowledged.
    pub(crate) async fn change(&self) -> Result<(), Failure> {
        let way = self.ways.first().ok_or("there is no instance")?;
        let mut client = ManagementClient::new(way.clone());
        let mut list = self.access.of_owner(GetNodesRequest::default())?;
        list.set_timeout(DEADLINE);
        let mut nodes = client.get_nodes(list).await?.into_inner();
        let node = nodes.message().await?.ok_or("there is no node")?;
        drop(nodes);
        let mut request = self.access.of_owner(UpdateNodeLabelsRequest {
            node: Some(update_node_labels_request::Node::Id(node.id)),
            upsert: vec![Pair {
                key: "changed".to_owned(),
                value: format!("{:x}", rand::random::<u64>()),
            }],
            delete: Vec::new(),
        })?;
        request.set_timeout(DEADLINE);
        client.update_node_labels(request).await?;
        Ok(())
    }

    async fn through(&self, way: &Channel) -> Result<(), Failure> {
        let mut client = ManagementClient::new(way.clone());
        loop {
            let mut request = self.access.of_owner(GetClusterInfoRequest {})?;
            request.set_timeout(DEADLINE);
            let begun = Instant::now();
            let answer = client.get_cluster_info(request).await;
            let told = answer.as_ref().err().and_then(retry_delay).unwrap_or_default();
            {
                let mut calls = self.calls();
                match answer {
                    Ok(_) => calls.took.push(begun.elapsed()),
                    // The instance that has ended is not there: whoever is told so calls another.
                    Err(status) if is_not_there(&status) => {}
                    Err(status) => {
                        calls.failed += 1;
                        calls.told = Some(status.to_string());
                    }
                }
            }
            tokio::time::sleep(told.max(PAUSE)).await;
        }
    }
}

/// Whether nobody listens at the address.
fn is_not_there(status: &tonic::Status) -> bool {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    let mut beneath = std::error::Error::source(status);
    while let Some(error) = beneath {
        if refused(error) {
            return true;
        }
        beneath = error.source();
    }
    status.message().contains("connect error")
}
