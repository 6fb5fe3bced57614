//! One call for the leader: serving it here, forwarding it, and waiting until it can be tried again.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::Code;
use tracing::{debug, warn};

use crate::call::Kind;
use crate::call::lifetime::CallLimits;
use crate::call::refusal::Refusal;
use crate::caller::{Caller, CallerAddress, CallerCertificates};
use crate::dispatch::Dispatcher;
use crate::dispatch::body::Body;
use crate::dispatch::hold_queue::{self, HoldPermit};
use crate::dispatch::routing::{FollowerRoute, Route};
use crate::forward::replay_body::ReplayBody;
use crate::forward::{Attempt, ForwardRequest, Outcome, Slot};
use crate::headers::{self, ForwardingHeaders};
use crate::inbound::InboundBody;
use crate::protocol::{ForwardProtocol, Negotiation};
use crate::telemetry::GaugeGuard;
use crate::{local, trace_context};

/// The delay before a call that did not run is sent to the same leader again. It doubles up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_millis(100);
/// How long a call waits to hear the leader before it enters the hold queue: longer than a round trip.
const MAX_PING_WAIT: Duration = Duration::from_millis(50);

/// The result of an attempt to serve or forward a call.
pub(crate) enum Step {
    /// The call is answered.
    Answered(Response<Body>),
    /// Nothing ran: the rules decide again, with the body of the request.
    DecideAgain(ReplayBody<InboundBody>),
}

/// A call for the leader.
pub(crate) struct Call<'a> {
    dispatcher: &'a Dispatcher,
    /// The worker that serves the caller's connection.
    worker: usize,
    route_updates: watch::Receiver<Arc<Route>>,
    kind: Kind,
    parts: http::request::Parts,
    caller: Caller,
    deadline: Option<Instant>,
    /// The place in the hold queue and the time limit, from the first wait on.
    hold: Option<(HoldPermit<'a>, GaugeGuard, Instant)>,
    backoff: Duration,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        dispatcher: &'a Dispatcher,
        worker: usize,
        kind: Kind,
        parts: http::request::Parts,
        caller: Caller,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            dispatcher,
            worker,
            route_updates: dispatcher.route_updates.clone(),
            kind,
            parts,
            caller,
            deadline,
            hold: None,
            backoff: INITIAL_BACKOFF,
        }
    }

    /// The current route. A later [`wait`](Self::wait) returns when it changes.
    pub(crate) fn route(&mut self) -> Arc<Route> {
        self.route_updates.borrow_and_update().clone()
    }

    /// Sets the address of the caller that the forwarding instance reports.
    pub(crate) fn set_address(&mut self, address: Option<CallerAddress>) {
        self.parts.extensions.remove::<CallerAddress>();
        if let Some(address) = address {
            self.parts.extensions.insert(address);
        }
    }

    /// The certificates that the caller presented to this instance or to the forwarding one, if the listener uses
    /// TLS.
    ///
    /// The forwarding instance reports who calls. Only members of the consensus are trusted to do so. A forwarded
    /// call of any other sender is refused, because it would otherwise run with the rights of that sender.
    pub(crate) async fn certificates(
        &self,
        forwarding: &ForwardingHeaders,
    ) -> Result<Option<CallerCertificates>, Refusal> {
        let Some(tls) = &self.dispatcher.config.tls else {
            return Ok(None);
        };
        let shown = self
            .parts
            .extensions
            .get::<CallerCertificates>()
            .cloned()
            .unwrap_or_default();
        let Some(hop) = &forwarding.hop else {
            return Ok(Some(shown));
        };
        let until = hold_queue::until(Instant::now(), self.dispatcher.config.hold_cap, self.deadline);
        let may_forward = timeout_at(until, tls.forwarders.may_forward(&shown)).await;
        if !may_forward.map_err(|_| Refusal::unavailable("the leader is still loading the cluster membership"))? {
            let message = "only members of the consensus may forward calls";
            // The forwarding instance tells its own caller to call another instance.
            return Err(Refusal::new(Code::PermissionDenied, message).not_run(headers::NO_MEMBER));
        }
        let Some(header) = hop.certificate() else {
            return Ok(Some(CallerCertificates::default()));
        };
        let forwarded = CallerCertificates::from_header(header);
        let malformed = || Refusal::new(Code::InvalidArgument, "malformed certificate in a forwarded call");
        Ok(Some(forwarded.ok_or_else(malformed)?))
    }

    /// Serves the call on this instance, unless the leader has begun to step down.
    pub(crate) async fn serve(
        &self,
        route: &Route,
        certificates: Option<CallerCertificates>,
        body: ReplayBody<InboundBody>,
    ) -> Step {
        let Route::Leader(leader) = route else {
            return Step::DecideAgain(body);
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        request.headers_mut().clone_from(&self.parts.headers);
        request.extensions_mut().clone_from(&self.parts.extensions);
        if let Some(certificates) = certificates {
            request.extensions_mut().insert(certificates);
        }
        let limits = CallLimits::new(self.deadline, Some(leader.lifetime.clone()));
        match local::serve(&leader.service, &leader.in_flight, request, limits).await {
            Ok(response) => Step::Answered(response.map(Body::Local)),
            Err(request) => Step::DecideAgain(request.into_body()),
        }
    }

    /// Forwards the call once. If nothing ran, waits until it can be tried again.
    pub(crate) async fn forward(&mut self, route: &Route, body: ReplayBody<InboundBody>) -> Result<Step, Refusal> {
        let Route::Follower(follower) = route else {
            return Ok(Step::DecideAgain(body));
        };
        let Some(slot) = self.slot(follower).await? else {
            return Ok(Step::DecideAgain(body));
        };
        let Some(slot) = self.alive(slot, follower).await? else {
            return Ok(Step::DecideAgain(body));
        };
        let version = follower.protocol.version();
        debug!(target: trace_context::TARGET, leader = follower.leader.node_id, "forwarding");
        let attempt = Attempt {
            request: self.forward_request(version),
            term: &follower.term,
            instance_id: &self.dispatcher.instance_id,
            slot,
            limits: CallLimits::new(self.deadline, Some(follower.lifetime.clone())),
            tasks: &self.dispatcher.tasks,
        };
        match attempt.run(body).await {
            Outcome::Answered(response) => Ok(Step::Answered(response.map(Body::Forwarded))),
            Outcome::Ended(refusal) => Err(refusal),
            Outcome::NoMember => {
                let message = "this instance cannot forward calls: only members of the consensus may forward calls, \
                               and its node is not a member; call another instance";
                Err(Refusal::unavailable(message).with_leader(Some(&follower.leader)))
            }
            Outcome::NotRun { why, body } => {
                self.back_off(why, follower).await?;
                Ok(Step::DecideAgain(body))
            }
            Outcome::OtherVersion { takes, body } => {
                if let Some(why) = negotiate(follower, version, takes) {
                    self.back_off(why, follower).await?;
                }
                Ok(Step::DecideAgain(body))
            }
        }
    }

    /// A slot on a connection to the leader. `None` after a wait, if there was none.
    async fn slot(&mut self, follower: &FollowerRoute) -> Result<Option<Slot>, Refusal> {
        let pool = follower
            .pool(self.worker)
            .ok_or_else(|| Refusal::new(Code::Internal, "internal: this worker has no connections to the leader"))?;
        if let Ok(slot) = pool.slot(self.kind, self.caller.standing) {
            return Ok(Some(slot));
        }
        // Try again after subscribing, so that no change is missed.
        let mut readiness = pool.readiness();
        readiness.borrow_and_update();
        match pool.slot(self.kind, self.caller.standing) {
            Ok(slot) => Ok(Some(slot)),
            Err(why) => {
                let refusal = Refusal::unavailable(why).with_leader(Some(&follower.leader));
                let again = async {
                    tokio::select! {
                        changed = readiness.changed() => match changed {
                            Ok(()) => {}
                            // The pool is gone: the route will change.
                            Err(_) => std::future::pending().await,
                        },
                        () = sleep(MAX_BACKOFF) => {}
                    }
                };
                self.wait(&refusal, again).await?;
                Ok(None)
            }
        }
    }

    /// Returns the slot if the leader is alive: a call that is sent to a dead leader fails. `None` after a wait, if it
    /// was not heard.
    async fn alive(&mut self, slot: Slot, follower: &FollowerRoute) -> Result<Option<Slot>, Refusal> {
        let last_heard = slot.last_heard();
        if self.dispatcher.config.leader_suspected.is_none() || last_heard.is_recent() {
            return Ok(Some(slot));
        }
        let until = hold_queue::until(Instant::now(), MAX_PING_WAIT, self.deadline);
        if timeout_at(until, last_heard.clone().hears()).await.is_ok() && last_heard.is_recent() {
            return Ok(Some(slot));
        }
        // It takes no capacity of the connection while it waits.
        drop(slot);
        let refusal = Refusal::unavailable("the leader does not answer").with_leader(Some(&follower.leader));
        self.wait(&refusal, last_heard.hears()).await?;
        Ok(None)
    }

    fn forward_request(&self, version: ForwardProtocol) -> ForwardRequest {
        let uri = &self.parts.uri;
        ForwardRequest {
            method: self.parts.method.clone(),
            path: uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
            headers: self.parts.headers.clone(),
            authority: uri
                .authority()
                .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()),
            deadline: self.deadline,
            certificate: self.parts.extensions.get().and_then(CallerCertificates::to_header),
            address: self.parts.extensions.get().copied(),
            version,
        }
    }

    /// Waits after a call that did not run, with exponential backoff.
    async fn back_off(&mut self, why: String, follower: &FollowerRoute) -> Result<(), Refusal> {
        let refusal = Refusal::unavailable(why).with_leader(Some(&follower.leader));
        let backoff = self.backoff;
        self.backoff = (backoff * 2).min(MAX_BACKOFF);
        self.wait(&refusal, sleep(backoff)).await
    }

    /// Waits until the route changes, or `again` completes. Refuses the call when the time limit has passed.
    pub(crate) async fn wait(&mut self, refusal: &Refusal, again: impl Future<Output = ()>) -> Result<(), Refusal> {
        let dispatcher = self.dispatcher;
        debug!(target: trace_context::TARGET, reason = %refusal.message, "waits");
        let until = self.enter_queue(refusal)?;
        let evicted = async {
            match &self.hold {
                Some((permit, ..)) => permit.evicted().await,
                None => std::future::pending().await,
            }
        };
        let route = self.route_updates.borrow().clone();
        // Completes at once if the term has resumed since it was found suspended.
        let resumed = async {
            match &*route {
                Route::Leader(leader) if leader.guard.0.is_valid() && !leader.in_flight.is_draining() => {
                    leader.guard.0.resumed().await;
                }
                _ => std::future::pending().await,
            }
        };
        // If there is a leader to forward to, the call may still succeed. Otherwise there is nothing to wait for.
        let hopeless = !matches!(&**self.route_updates.borrow(), Route::Follower(_));
        tokio::select! {
            biased;
            () = dispatcher.stopping.cancelled(), if hopeless => Err(Refusal::unavailable(format!(
                "this instance is stopping: {}; nothing of the call ran",
                refusal.message
            ))),
            changed = self.route_updates.changed() => changed.map_err(|_| refusal.clone()),
            () = sleep_until(until) => Err(Refusal {
                message: format!("timed out waiting for a leader: {}; nothing of the call ran", refusal.message).into(),
                ..refusal.clone()
            }
            .retry_after(hold_queue::retry_after())),
            () = evicted => Err(Refusal::new(
                Code::ResourceExhausted,
                format!(
                    "evicted from the hold queue in favour of other callers: {}; nothing of the call ran",
                    refusal.message
                ),
            )
            .retry_after(hold_queue::retry_after())),
            () = resumed => Ok(()),
            () = again => Ok(()),
        }
    }

    /// Enters the hold queue, unless the call is in it. Returns until when it may wait.
    fn enter_queue(&mut self, refusal: &Refusal) -> Result<Instant, Refusal> {
        if let Some((_, _, until)) = &self.hold {
            return Ok(*until);
        }
        let dispatcher = self.dispatcher;
        let queue = &dispatcher.hold_queue;
        let Some(permit) = queue.enter(&self.caller, self.kind) else {
            let message = format!(
                "hold queue full ({} calls are waiting for a leader): {}",
                queue.limit(),
                refusal.message
            );
            return Err(Refusal::new(Code::ResourceExhausted, message).retry_after(hold_queue::retry_after()));
        };
        let until = hold_queue::until(Instant::now(), dispatcher.config.hold_cap, self.deadline);
        self.hold = Some((permit, dispatcher.metrics.held(), until));
        Ok(until)
    }
}

/// Handles the leader's refusal of a protocol version. Returns why the call must wait, or `None` if it can be sent
/// again at once.
fn negotiate(follower: &FollowerRoute, said: ForwardProtocol, takes: Option<ForwardProtocol>) -> Option<String> {
    let leader = &follower.leader.node_id;
    match follower.protocol.refused(said, takes) {
        Negotiation::Downgraded(version) => {
            debug!(leader, %version, "using an older forwarding protocol version with this leader");
            None
        }
        Negotiation::AlreadyKnown => None,
        Negotiation::Incompatible { first } => {
            let theirs = takes.map_or_else(|| "unknown".to_owned(), |takes| takes.to_string());
            let why = format!(
                "incompatible forwarding protocol versions: {theirs} on the leader, {} on this instance; upgrade the \
                 older one, one version at a time",
                ForwardProtocol::OURS
            );
            if first {
                warn!(leader, "calls cannot be forwarded: {why}");
            }
            Some(why)
        }
    }
}
