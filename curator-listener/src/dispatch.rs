//! Dispatching a call: it is served here, forwarded to the leader, queued, or refused.

pub(crate) mod body;
mod decide;
pub(crate) mod hold_queue;
pub(crate) mod routing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::{Instrument, Span, debug, warn};

use crate::call::lifetime::{CallLimits, RoleLifetime};
use crate::call::refusal::Refusal;
use crate::call::{Kind, grpc_timeout, head};
use crate::caller::{Caller, CallerAddress, CallerCertificates, Standing};
use crate::config::ListenerConfig;
use crate::dispatch::body::Body;
use crate::dispatch::decide::{Decision, decide};
use crate::dispatch::hold_queue::{HoldPermit, HoldQueue};
use crate::dispatch::routing::{FollowerRoute, Route};
use crate::forward::replay_body::{ReplayBody, ReplayBudget};
use crate::forward::{ForwardRequest, Outcome, Ready};
use crate::headers::ForwardingHeaders;
use crate::inbound::{InboundBody, Keep};
use crate::protocol::{ForwardProtocol, Negotiation};
use crate::services::{Local, MethodKinds};
use crate::telemetry::{Answered, GaugeGuard, Metrics};
use crate::{forward, headers, local, protocol, telemetry, trace_context};

/// The first pause before a call that did not run is sent to the same leader again; it doubles up to the longest.
const INITIAL_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_millis(100);

/// The state that all calls share.
pub(crate) struct Dispatcher {
    pub(crate) local: Local,
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
            // The client is a person or an HTTP/2 tool.
            let mut response = Response::new(Body::Said("This is a server of gRPC: POST application/grpc.\n"));
            *response.status_mut() = status;
            let text = HeaderValue::from_static("text/plain");
            response.headers_mut().insert(CONTENT_TYPE, text);
            if status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            }
            return response;
        }
        match self.dispatch(request, worker).await {
            Ok((response, by)) => {
                let took = began.elapsed();
                by.note(took);
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
    ) -> Result<(Response<Body>, &Answered), Refusal> {
        let timeout = grpc_timeout::timeout(request.headers())
            .map_err(|error| Refusal::new(Code::InvalidArgument, error.to_string()))?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        if let Some(routes) = self.local.routes(request.uri().path()) {
            let response = local::serve_local(
                routes,
                request,
                CallLimits::new(deadline, Some(self.local_lifetime.clone())),
            )
            .await;
            return Ok((response.map(Body::LeaderBody), &self.metrics.local));
        }
        let (mut parts, mut body) = request.into_parts();
        let marks = ForwardingHeaders::take(&mut parts.headers);
        let most = self.config.max_header_list_size as usize;
        // The forwarding instance has checked the size, and has added headers since.
        if marks.hop.is_none() && head::length(&parts) > most {
            let message = format!("the metadata of the call is longer than {most} bytes");
            return Err(Refusal::new(Code::ResourceExhausted, message));
        }
        let caller = parts
            .extensions
            .remove::<Caller>()
            .ok_or_else(|| Refusal::new(Code::Internal, "nobody knows whose call this is"))?;
        if marks.hop.is_none() {
            self.admit(&parts, &caller)?;
        }
        let mut call = Call {
            dispatcher: self,
            worker,
            route_updates: self.route_updates.clone(),
            kind: self.kinds.of(parts.uri.path()),
            parts,
            from: caller,
            deadline,
            hold: None,
            pause: INITIAL_BACKOFF,
        };
        if call.kind == Kind::Unary {
            body.keep(Keep::All);
        }
        let mut body = ReplayBody::new(body, self.replay_budget.clone());
        loop {
            let route = call.route_updates.borrow_and_update().clone();
            body = match decide(route.view(), &marks, &self.instance_id) {
                Decision::Refuse(refusal) => {
                    if refusal.not_run == Some(protocol::REFUSED)
                        && !self.logged_unsupported.swap(true, Ordering::Relaxed)
                    {
                        warn!("not said again: {}", refusal.message);
                    }
                    return Err(refusal);
                }
                Decision::Queue(refusal) => {
                    call.wait(&refusal, None, None).await?;
                    body
                }
                Decision::ServeLocally => {
                    let caller = call.caller(&marks).await?;
                    if let Some(hop) = &marks.hop {
                        call.parts.extensions.remove::<CallerAddress>();
                        if let Some(address) = hop.address() {
                            call.parts.extensions.insert(address);
                        }
                        body.incoming().is_forwarded();
                    }
                    match call.serve(&route, caller, body).await {
                        Ok(response) => return Ok((response, &self.metrics.led)),
                        // The leader has just begun to step down; decide again.
                        Err(body) => body,
                    }
                }
                Decision::Forward => match &*route {
                    Route::Follower(follow) => match call.forward(follow, body).await? {
                        Ok(response) => return Ok((response, &self.metrics.forwarded)),
                        Err(body) => body,
                    },
                    Route::Leader(_) | Route::Undetermined { .. } => body,
                },
            };
        }
    }
}

impl Dispatcher {
    /// Refuses a stranger's call that the leader would refuse.
    fn admit(&self, parts: &http::request::Parts, caller: &Caller) -> Result<(), Refusal> {
        let Some(tls) = self
            .config
            .tls
            .as_ref()
            .filter(|_| caller.standing == Standing::Stranger)
        else {
            return Ok(());
        };
        let shown = parts.extensions.get().cloned().unwrap_or_default();
        match tls.forwarders.refuses(parts.uri.path(), &shown) {
            None => Ok(()),
            Some(why) => Err(Refusal::new(Code::Unauthenticated, why)),
        }
    }
}

/// A call for the leader.
struct Call<'a> {
    dispatcher: &'a Dispatcher,
    /// The worker that serves the caller's connection.
    worker: usize,
    route_updates: watch::Receiver<Arc<Route>>,
    kind: Kind,
    parts: http::request::Parts,
    from: Caller,
    deadline: Option<Instant>,
    /// The place in the hold queue and the time limit, from the first wait on.
    hold: Option<(HoldPermit<'a>, GaugeGuard, Instant)>,
    pause: Duration,
}

impl Call<'_> {
    /// The certificates that the caller presented to this instance or to the forwarding one, if the listener uses
    /// TLS.
    ///
    /// The forwarding instance reports who calls. Only members of the consensus are trusted to do so. A forwarded
    /// call of any other sender is refused, because it would otherwise run with the rights of that sender.
    async fn caller(&self, marks: &ForwardingHeaders) -> Result<Option<CallerCertificates>, Refusal> {
        let Some(tls) = &self.dispatcher.config.tls else {
            return Ok(None);
        };
        let shown = self
            .parts
            .extensions
            .get::<CallerCertificates>()
            .cloned()
            .unwrap_or_default();
        let Some(hop) = &marks.hop else { return Ok(Some(shown)) };
        let until = hold_queue::until(Instant::now(), self.dispatcher.config.hold_cap, self.deadline);
        let may_forward = timeout_at(until, tls.forwarders.may_forward(&shown)).await;
        if !may_forward.map_err(|_| Refusal::unavailable("the leader cannot say yet whose calls it takes"))? {
            let message = "only members of the consensus may forward calls";
            // The forwarding instance tells its own caller to call another instance.
            return Err(Refusal::new(Code::PermissionDenied, message).not_run(headers::NO_MEMBER));
        }
        let Some(header) = hop.certificate() else {
            return Ok(Some(CallerCertificates::default()));
        };
        let forwarded = CallerCertificates::from_header(header);
        let unreadable = || Refusal::new(Code::InvalidArgument, "the forwarded certificate cannot be read");
        Ok(Some(forwarded.ok_or_else(unreadable)?))
    }

    async fn serve(
        &self,
        route: &Route,
        caller: Option<CallerCertificates>,
        body: ReplayBody<InboundBody>,
    ) -> Result<Response<Body>, ReplayBody<InboundBody>> {
        let Route::Leader(lead) = route else { return Err(body) };
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        request.headers_mut().clone_from(&self.parts.headers);
        request.extensions_mut().clone_from(&self.parts.extensions);
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let limits = CallLimits::new(self.deadline, Some(lead.lifetime.clone()));
        match local::serve(&lead.routes, &lead.in_flight, request, limits).await {
            Ok(response) => Ok(response.map(Body::LeaderBody)),
            Err(request) => Err(request.into_body()),
        }
    }

    /// Forwards the call once. Returns the body if nothing ran and the call can be retried.
    async fn forward(
        &mut self,
        follow: &FollowerRoute,
        body: ReplayBody<InboundBody>,
    ) -> Result<Result<Response<Body>, ReplayBody<InboundBody>>, Refusal> {
        let pool = follow
            .pool(self.worker)
            .ok_or_else(|| Refusal::new(Code::Internal, "this thread has no connections to the leader"))?;
        let slot = match pool.slot(self.kind, self.from.standing) {
            Ok(slot) => slot,
            Err(_) => {
                // Try again after subscribing, so that no change is missed.
                let mut readiness = pool.readiness();
                readiness.borrow_and_update();
                match pool.slot(self.kind, self.from.standing) {
                    Ok(slot) => slot,
                    Err(why) => {
                        let refusal = Refusal::unavailable(why).with_leader(Some(&follow.leader));
                        self.wait(&refusal, Some(readiness), Some(MAX_BACKOFF)).await?;
                        return Ok(Err(body));
                    }
                }
            }
        };
        let head = ForwardRequest {
            method: self.parts.method.clone(),
            path: match self.parts.uri.path_and_query() {
                Some(path) => path.clone(),
                None => PathAndQuery::from_static("/"),
            },
            headers: self.parts.headers.clone(),
            authority: self
                .parts
                .uri
                .authority()
                .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()),
            deadline: self.deadline,
            certificate: self.parts.extensions.get().and_then(CallerCertificates::to_header),
            address: self.parts.extensions.get().copied(),
            version: follow.protocol.version(),
        };
        let said = head.version;
        let limits = CallLimits::new(self.deadline, Some(follow.lifetime.clone()));
        let dispatcher = self.dispatcher;
        debug!(target: trace_context::TARGET, leader = follow.leader.node_id, "forwarding");
        let outcome = forward::attempt(
            head,
            body,
            &follow.term,
            &dispatcher.instance_id,
            slot,
            limits,
            &dispatcher.tasks,
        )
        .await;
        match outcome {
            Outcome::Answered(response) => Ok(Ok(response.map(Body::Forwarded))),
            Outcome::Ended(refusal) => Err(refusal),
            Outcome::NoMember => {
                let message = "this instance cannot forward calls: only members of the consensus may forward calls, and its node is \
                               none (any more); call another instance";
                Err(Refusal::unavailable(message).with_leader(Some(&follow.leader)))
            }
            Outcome::NotRun { why, body } => {
                self.pause_after(why, follow).await?;
                Ok(Err(body))
            }
            Outcome::OtherVersion { takes, body } => {
                if let Some(why) = learn(follow, said, takes) {
                    self.pause_after(why, follow).await?;
                }
                Ok(Err(body))
            }
        }
    }

    /// Waits after a call that did not run, with exponential backoff.
    async fn pause_after(&mut self, why: String, follow: &FollowerRoute) -> Result<(), Refusal> {
        let refusal = Refusal::unavailable(why).with_leader(Some(&follow.leader));
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_BACKOFF);
        self.wait(&refusal, None, Some(pause)).await
    }

    /// Waits until the call can be tried again. Refuses it when the time limit has passed.
    async fn wait(
        &mut self,
        refusal: &Refusal,
        readiness: Option<watch::Receiver<Ready>>,
        pause: Option<Duration>,
    ) -> Result<(), Refusal> {
        let dispatcher = self.dispatcher;
        debug!(target: trace_context::TARGET, reason = %refusal.message, "waits");
        let until = match &self.hold {
            Some((_, _, until)) => *until,
            None => {
                let limit = dispatcher.hold_queue.limit();
                let permit = dispatcher.hold_queue.enter(&self.from, self.kind).ok_or_else(|| {
                    Refusal::new(
                        Code::ResourceExhausted,
                        format!(
                            "{}; {limit} calls wait for a leader already, which is as many as may",
                            refusal.message
                        ),
                    )
                    .retry_after(hold_queue::retry_after())
                })?;
                let until = hold_queue::until(Instant::now(), dispatcher.config.hold_cap, self.deadline);
                self.hold = Some((permit, dispatcher.metrics.held(), until));
                until
            }
        };
        let retry = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let connected = async {
            if let Some(mut readiness) = readiness
                && readiness.changed().await.is_ok()
            {
                return;
            }
            // The pool is gone: the route will change.
            std::future::pending::<()>().await;
        };
        let lost = async {
            match &self.hold {
                Some((permit, ..)) => permit.lost().await,
                None => std::future::pending().await,
            }
        };
        // If there is a leader to forward to, the call may still succeed. Otherwise there is nothing to wait for.
        let hopeless = !matches!(&**self.route_updates.borrow(), Route::Follower(_));
        tokio::select! {
            biased;
            () = dispatcher.stopping.cancelled(), if hopeless => {
                Err(Refusal::unavailable(format!("this instance is stopping; {}, and nothing of the call ran", refusal.message)))
            }
            changed = self.route_updates.changed() => match changed {
                Ok(()) => Ok(()),
                Err(_) => Err(refusal.clone()),
            },
            () = sleep_until(until) => Err(Refusal {
                message: format!("{}; nothing of the call ran while it waited", refusal.message).into(),
                ..refusal.clone()
            }
            .retry_after(hold_queue::retry_after())),
            () = lost => Err(Refusal::new(
                Code::ResourceExhausted,
                format!("{}; calls of others wait for a leader as well, and this one has made room for them; nothing of it ran", refusal.message),
            )
            .retry_after(hold_queue::retry_after())),
            () = connected => Ok(()),
            () = retry => Ok(()),
        }
    }
}

/// Handles the leader's refusal of a protocol version. Returns why the call must wait, or `None` if it can be sent
/// again at once.
fn learn(follow: &FollowerRoute, said: ForwardProtocol, takes: Option<ForwardProtocol>) -> Option<String> {
    let leader = &follow.leader.node_id;
    match follow.protocol.refused(said, takes) {
        Negotiation::Downgraded(version) => {
            debug!(leader, %version, "the leader is of an earlier version, in which it is told of calls from now on");
            None
        }
        Negotiation::AlreadyKnown => None,
        Negotiation::Incompatible { first } => {
            let theirs = takes.map_or_else(|| "one that cannot be read".to_owned(), |takes| takes.to_string());
            let why = format!(
                "the leader takes version {theirs} of what instances say to each other, and this one speaks {}: they are too far \
                 apart, upgrade the older one, one version at a time",
                ForwardProtocol::OURS
            );
            if first {
                warn!(leader, "calls cannot be forwarded: {why}");
            }
            Some(why)
        }
    }
}
