//! Dispatching a call: it is served here, forwarded to the leader, queued, or refused.

pub(crate) mod body;
mod call;
mod decide;
pub(crate) mod hold_queue;
mod route_updater;
pub(crate) mod routing;

pub(crate) use route_updater::RouteUpdater;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::{Instrument, Span, debug, warn};

use crate::call::lifetime::{CallLimits, RoleLifetime};
use crate::call::refusal::Refusal;
use crate::call::{Kind, grpc_timeout, head};
use crate::caller::{Caller, Standing};
use crate::config::ListenerConfig;
use crate::dispatch::body::Body;
use crate::dispatch::call::{Call, Step};
use crate::dispatch::decide::{Decision, decide};
use crate::dispatch::hold_queue::HoldQueue;
use crate::dispatch::routing::Route;
use crate::forward::replay_body::{ReplayBody, ReplayBudget};
use crate::headers::ForwardingHeaders;
use crate::inbound::{InboundBody, Keep};
use crate::services::{LocalServices, MethodKinds};
use crate::telemetry::{AnswerMetrics, Metrics};
use crate::{local, protocol, telemetry, trace_context};

/// The state that all calls share.
pub(crate) struct Dispatcher {
    pub(crate) local: LocalServices,
    /// The lifetime of the local services.
    pub(crate) local_lifetime: Arc<RoleLifetime>,
    pub(crate) kinds: MethodKinds,
    pub(crate) route_updates: watch::Receiver<Arc<Route>>,
    pub(crate) hold_queue: HoldQueue,
    /// The budget of bodies that are buffered for a retry.
    pub(crate) replay_budget: Arc<ReplayBudget>,
    pub(crate) config: Arc<ListenerConfig>,
    /// Identifies this process among the instances.
    pub(crate) instance_id: HeaderValue,
    /// The listener is stopping: calls no longer wait for a leader.
    pub(crate) stopping: CancellationToken,
    /// Uploads that continue after their response has begun.
    pub(crate) tasks: TaskTracker,
    pub(crate) metrics: Metrics,
    /// Whether a call with an unsupported protocol version has been logged. It is logged once, because strangers can
    /// cause it.
    pub(crate) logged_unsupported: AtomicBool,
}

impl Dispatcher {
    /// Answers a call.
    ///
    /// Cancellation: dropping the future cancels the call in any state.
    pub(crate) async fn answer(&self, request: Request<InboundBody>, worker: usize) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let span = trace_context::begin(&mut parts.headers, parts.uri.path());
        let answer = self.answer_within(Request::from_parts(parts, body), worker, &span);
        answer.instrument(span.clone()).await
    }

    async fn answer_within(&self, request: Request<InboundBody>, worker: usize, span: &Span) -> Response<Body> {
        let began = Instant::now();
        if let Some(status) = head::no_call(&request) {
            return not_grpc(status);
        }
        match self.dispatch(request, worker).await {
            Ok((response, by)) => {
                let took = began.elapsed();
                by.record(took);
                span.record("by", by.name());
                debug!(target: trace_context::TARGET, by = by.name(), ?took, "the answer begins");
                response
            }
            Err(refusal) => {
                telemetry::refused(&refusal);
                span.record("by", "refusal");
                span.record("code", refusal.code.description());
                debug!(target: trace_context::TARGET, code = ?refusal.code, reason = %refusal.message, "refused");
                refusal.response()
            }
        }
    }

    async fn dispatch(
        &self,
        request: Request<InboundBody>,
        worker: usize,
    ) -> Result<(Response<Body>, &AnswerMetrics), Refusal> {
        let timeout = grpc_timeout::timeout(request.headers())
            .map_err(|error| Refusal::new(Code::InvalidArgument, error.to_string()))?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        if let Some(service) = self.local.at(request.uri().path()) {
            let limits = CallLimits::new(deadline, Some(self.local_lifetime.clone()));
            let response = local::serve_local(service, request, limits).await;
            return Ok((response.map(Body::Local), &self.metrics.local));
        }
        let (mut parts, mut body) = request.into_parts();
        let forwarding = ForwardingHeaders::take(&mut parts.headers);
        let caller = self.admit(&mut parts, &forwarding)?;
        let kind = self.kinds.of(parts.uri.path());
        if kind == Kind::Unary {
            body.keep(Keep::All);
        }
        let mut body = ReplayBody::new(body, self.replay_budget.clone());
        let mut call = Call::new(self, worker, kind, parts, caller, deadline);
        loop {
            let route = call.route();
            let (step, by) = match decide(route.view(), &forwarding, &self.instance_id) {
                Decision::Refuse(refusal) => {
                    self.log_unsupported_protocol(&refusal);
                    return Err(refusal);
                }
                Decision::Queue(refusal) => {
                    call.wait(&refusal, std::future::pending()).await?;
                    continue;
                }
                Decision::ServeLocally => {
                    let certificates = call.certificates(&forwarding).await?;
                    if let Some(hop) = &forwarding.hop {
                        call.set_address(hop.address());
                        body.incoming().is_forwarded();
                    }
                    (call.serve(&route, certificates, body).await, &self.metrics.leader)
                }
                Decision::Forward => (call.forward(&route, body).await?, &self.metrics.forwarded),
            };
            body = match step {
                Step::Answered(response) => return Ok((response, by)),
                Step::DecideAgain(body) => body,
            };
        }
    }

    /// Checks that a call may be dispatched at all, and returns its caller.
    fn admit(&self, parts: &mut http::request::Parts, forwarding: &ForwardingHeaders) -> Result<Caller, Refusal> {
        let caller = parts
            .extensions
            .remove::<Caller>()
            .ok_or_else(|| Refusal::new(Code::Internal, "internal: the caller of the connection is not set"))?;
        if forwarding.hop.is_some() {
            // The forwarding instance has done these checks, and has added headers since.
            return Ok(caller);
        }
        let max = self.config.max_header_list_size as usize;
        if head::length(parts) > max {
            let message = format!("the metadata of the call exceeds {max} bytes");
            return Err(Refusal::new(Code::ResourceExhausted, message));
        }
        if caller.standing == Standing::Stranger
            && let Some(tls) = &self.config.tls
        {
            // The leader would refuse it as well.
            let shown = parts.extensions.get().cloned().unwrap_or_default();
            if let Some(why) = tls.forwarders.refuses(parts.uri.path(), &shown) {
                return Err(Refusal::new(Code::Unauthenticated, why));
            }
        }
        Ok(caller)
    }

    /// Logs the first call with an unsupported protocol version.
    fn log_unsupported_protocol(&self, refusal: &Refusal) {
        if refusal.not_run == Some(protocol::REFUSED) && !self.logged_unsupported.swap(true, Ordering::Relaxed) {
            warn!("{}; logged once only", refusal.message);
        }
    }
}

/// The response to a request that is not a gRPC call, made by a person or an HTTP/2 tool.
fn not_grpc(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Text("This is a gRPC server: POST application/grpc.\n"));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, text);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}
