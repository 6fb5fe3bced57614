//! The owner, who calls all the time, through one instance after the other.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use curator_proto::management_api::GetClusterInfoRequest;
use curator_proto::management_api::management_client::ManagementClient;
use curator_service::TEST_CALLER;
use futures::future::join_all;
use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};

use crate::Failure;

/// Between two calls through an instance.
const PAUSE: Duration = Duration::from_millis(50);
/// What each call is given.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Owner {
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
    pub(crate) fn new(instances: &[SocketAddr]) -> Result<Self, Failure> {
        let way = |address: &SocketAddr| Ok(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy());
        Ok(Self {
            ways: instances.iter().map(way).collect::<Result<_, Failure>>()?,
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
    pub(crate) async fn run(&self) {
        join_all(self.ways.iter().map(|way| self.through(way))).await;
    }

    async fn through(&self, way: &Channel) {
        let mut client = ManagementClient::new(way.clone());
        loop {
            let mut request = Request::new(GetClusterInfoRequest {});
            request.set_timeout(DEADLINE);
            request
                .metadata_mut()
                .insert(TEST_CALLER, AsciiMetadataValue::from_static("user owner"));
            let begun = Instant::now();
            let answer = client.get_cluster_info(request).await;
            {
                let mut calls = self.calls();
                match answer {
                    Ok(_) => calls.took.push(begun.elapsed()),
                    // The instance that has ended is not there: whoever is told so calls another.
                    Err(status) if status.message().contains("connect error") => {}
                    Err(status) => {
                        calls.failed += 1;
                        calls.told = Some(status.to_string());
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
