//! The metrics of the listener. Install a recorder of the `metrics` crate before the listener runs.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use crate::call::refusal::Refusal;

/// Calls that were answered, by who answered: `local`, `leader` (this instance leads) or `forwarded`.
pub const CALLS: &str = "curator_calls_total";
/// Time until the answer began, in seconds, by who answered.
pub const CALL_SECONDS: &str = "curator_call_seconds";
/// Calls that were refused, by gRPC code: nothing of them ran, or the term ended during the call.
pub const CALLS_REFUSED: &str = "curator_calls_refused_total";
/// Calls that are waiting for a leader.
pub const CALLS_HELD: &str = "curator_calls_held";
/// Calls that had to wait for a leader.
pub const CALLS_HELD_TOTAL: &str = "curator_calls_held_total";
/// How often calls and connections have reached a limit of the listener, by the name of the limit.
pub const LIMITS_REACHED: &str = "curator_limits_reached_total";
/// Open connections.
pub const CONNECTIONS: &str = "curator_connections";
/// TLS handshakes of clients, by outcome.
pub const TLS_HANDSHAKES: &str = "curator_tls_handshakes_total";
/// Memory in use by all callers together, in bytes.
pub const MEMORY_HELD: &str = "curator_callers_memory_bytes";
/// The limit of that memory, in bytes.
pub const MEMORY_LIMIT: &str = "curator_callers_memory_limit_bytes";
/// How often a connection was not read, or a response not sent, because its caller had reached its memory share.
pub const WAITS_FOR_ROOM: &str = "curator_callers_waits_for_room_total";

/// Terms of this instance in which the leader's services could not be started.
pub const LEADER_SERVICES_FAILED: &str = "curator_leader_services_failed_total";

/// Metric handles, so that calls do not look them up.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) local: AnswerMetrics,
    pub(crate) leader: AnswerMetrics,
    pub(crate) forwarded: AnswerMetrics,
    held: Gauge,
    held_total: Counter,
    connections: Gauge,
    handshakes_ok: Counter,
    handshakes_failed: Counter,
}

/// The metrics of calls that are answered in one way.
#[derive(Clone)]
pub(crate) struct AnswerMetrics {
    by: &'static str,
    calls: Counter,
    seconds: Histogram,
}

impl AnswerMetrics {
    fn new(by: &'static str) -> Self {
        Self {
            by,
            calls: metrics::counter!(CALLS, "by" => by),
            seconds: metrics::histogram!(CALL_SECONDS, "by" => by),
        }
    }

    /// Who answers.
    pub(crate) const fn name(&self) -> &'static str {
        self.by
    }

    pub(crate) fn record(&self, took: Duration) {
        self.calls.increment(1);
        self.seconds.record(took.as_secs_f64());
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            local: AnswerMetrics::new("local"),
            leader: AnswerMetrics::new("leader"),
            forwarded: AnswerMetrics::new("forwarded"),
            held: metrics::gauge!(CALLS_HELD),
            held_total: metrics::counter!(CALLS_HELD_TOTAL),
            connections: metrics::gauge!(CONNECTIONS),
            handshakes_ok: metrics::counter!(TLS_HANDSHAKES, "outcome" => "ok"),
            handshakes_failed: metrics::counter!(TLS_HANDSHAKES, "outcome" => "failed"),
        }
    }

    pub(crate) fn tls_handshake(&self, ok: bool) {
        if ok {
            self.handshakes_ok.increment(1);
        } else {
            self.handshakes_failed.increment(1);
        }
    }

    /// Counts a connection as long as the returned value lives.
    pub(crate) fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(self.connections.clone())
    }

    /// Counts a waiting call as long as the returned value lives.
    pub(crate) fn held(&self) -> GaugeGuard {
        self.held_total.increment(1);
        GaugeGuard::new(self.held.clone())
    }
}

/// Counts a wait for room in the memory budget.
pub(crate) fn waits_for_room() {
    metrics::counter!(WAITS_FOR_ROOM).increment(1);
}

/// Counts a term whose services could not be started.
pub(crate) fn leader_services_failed() {
    metrics::counter!(LEADER_SERVICES_FAILED).increment(1);
}

/// Sets the memory in use and its limit.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn memory(used: usize, limit: usize) {
    metrics::gauge!(MEMORY_HELD).set(used as f64);
    metrics::gauge!(MEMORY_LIMIT).set(limit as f64);
}

pub(crate) fn refused(refusal: &Refusal) {
    metrics::counter!(CALLS_REFUSED, "code" => code_word(refusal.code)).increment(1);
}

const fn code_word(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Decrements a gauge when dropped.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
