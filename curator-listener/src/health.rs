//! `grpc.health.v1` for every instance. SERVING means that a call to this instance reaches a leader.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::call::refusal::STOPPING;
use crate::dispatch::routing::Route;

/// The encoded descriptors of the service, for reflection.
pub(crate) const FILE_DESCRIPTOR_SET: &[u8] = tonic_health::pb::FILE_DESCRIPTOR_SET;

/// The health service.
#[derive(Clone)]
pub(crate) struct HealthService {
    serving: watch::Receiver<bool>,
    /// Services that every instance answers.
    local: Arc<HashSet<&'static str>>,
    /// Services that the leader answers.
    of_leader: Arc<HashSet<String>>,
    stopping: CancellationToken,
}

impl HealthService {
    pub(crate) fn server(
        serving: watch::Receiver<bool>,
        local: HashSet<&'static str>,
        of_leader: HashSet<String>,
        stopping: CancellationToken,
    ) -> HealthServer<Self> {
        HealthServer::new(Self {
            serving,
            local: Arc::new(local),
            of_leader: Arc::new(of_leader),
            stopping,
        })
    }

    /// Whether a service is answered by every instance; `None` if it is unknown.
    fn is_local(&self, service: &str) -> Option<bool> {
        if self.local.contains(service) {
            return Some(true);
        }
        // The empty name asks for the server as a whole.
        (service.is_empty() || self.of_leader.contains(service)).then_some(false)
    }
}

const fn status(serving: bool) -> ServingStatus {
    if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn response(serving: bool) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status(serving).into(),
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Responses;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let local = self
            .is_local(&service)
            .ok_or_else(|| Status::not_found("unknown service"))?;
        Ok(Response::new(response(local || *self.serving.borrow())))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Responses>, Status> {
        let service = request.into_inner().service;
        let is_local = self.is_local(&service);
        let state = (self.serving.clone(), None, self.stopping.clone());
        let stream = stream::unfold(Some(state), move |state| async move {
            let (mut serving, reported, stopping) = state?;
            let mut alive = true;
            loop {
                let now = match is_local {
                    // Not an error: by the protocol the caller keeps watching.
                    None => ServingStatus::ServiceUnknown,
                    Some(local) => status(*serving.borrow_and_update() || local),
                };
                if reported != Some(now) {
                    let response = HealthCheckResponse { status: now.into() };
                    return Some((Ok(response), Some((serving, Some(now), stopping))));
                }
                tokio::select! {
                    biased;
                    // Without a publisher the last state stays until the instance stops.
                    changed = serving.changed(), if alive => alive = changed.is_ok(),
                    // An open stream would delay the shutdown.
                    () = stopping.cancelled() => {
                        return Some((Err(Status::unavailable(STOPPING)), None));
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Publishes whether calls reach a leader, until the instance is marked as not ready.
pub(crate) async fn report(
    mut route_updates: watch::Receiver<Arc<Route>>,
    serving: watch::Sender<bool>,
    unready: CancellationToken,
) {
    loop {
        let route = route_updates.borrow_and_update().clone();
        let mut readiness = match &*route {
            Route::Follower(follower) => follower.readiness(),
            Route::Leader(_) | Route::Undetermined { .. } | Route::Failed(_) => None,
        };
        let reachable = match (&*route, &mut readiness) {
            (Route::Leader(leader), _) => !leader.in_flight.is_draining(),
            (_, Some(readiness)) => readiness.borrow_and_update().open,
            _ => false,
        };
        serving.send_if_modified(|serving| std::mem::replace(serving, reachable) != reachable);
        let drained = async {
            match &*route {
                Route::Leader(leader) if reachable => leader.in_flight.draining().await,
                _ => std::future::pending().await,
            }
        };
        let connected = async {
            if let Some(readiness) = &mut readiness
                && readiness.changed().await.is_ok()
            {
                return;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = unready.cancelled() => break,
            changed = route_updates.changed() => if changed.is_err() { break },
            () = connected => {}
            () = drained => {}
        }
    }
    serving.send_if_modified(|serving| std::mem::replace(serving, false));
}
