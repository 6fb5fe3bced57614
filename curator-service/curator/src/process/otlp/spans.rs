//! Converts spans of `tracing` to OpenTelemetry. The span of a call has its trace ids as fields, because they were
//! already sent to the next instance; its children belong to the same trace.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use curator_service::wall_clock;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks, SpanProcessor};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The target of spans with trace ids of their own.
pub(super) const CALLS: &str = "curator::call";
/// Maximum number of links of a span.
const MAX_LINKS: usize = 32;

/// Passes each span to a processor when it ends.
pub(crate) struct Spans<P> {
    processor: Arc<P>,
    scope: InstrumentationScope,
}

/// A span that has not ended.
struct Open {
    trace_id: TraceId,
    span_id: SpanId,
    parent_id: SpanId,
    /// Whether the parent is in another process.
    remote: bool,
    sampled: bool,
    began: SystemTime,
    attributes: Vec<KeyValue>,
    links: SpanLinks,
    failed: Option<String>,
}

impl<P> Spans<P> {
    pub(crate) fn new(processor: Arc<P>) -> Self {
        Self {
            processor,
            scope: InstrumentationScope::builder("curator").build(),
        }
    }
}

impl Open {
    fn context(&self) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        SpanContext::new(self.trace_id, self.span_id, flags, false, TraceState::NONE)
    }
}

impl<S, P> Layer<S> for Spans<P>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    P: SpanProcessor + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut open = Open {
            trace_id: TraceId::INVALID,
            span_id: SpanId::INVALID,
            parent_id: SpanId::INVALID,
            remote: false,
            sampled: true,
            began: wall_clock(),
            attributes: Vec::new(),
            links: SpanLinks::default(),
            failed: None,
        };
        if !is_call(span.metadata()) {
            let Some(parent) = span.parent() else {
                // Not part of a call: there is no trace.
                return;
            };
            let extensions = parent.extensions();
            let Some(within) = extensions.get::<Open>() else {
                return;
            };
            open.trace_id = within.trace_id;
            open.parent_id = within.span_id;
            open.sampled = within.sampled;
            open.span_id = SpanId::from(rand::random_range(1..=u64::MAX));
        }
        attributes.record(&mut open);
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            values.record(open);
        }
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        let other = context.span(follows);
        let Some(other) = other.and_then(|span| span.extensions().get::<Open>().map(Open::context)) else {
            return;
        };
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            if open.links.links.len() < MAX_LINKS {
                open.links.links.push(Link::new(other, Vec::new(), 0));
            } else {
                open.links.dropped_count += 1;
            }
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else {
            return;
        };
        if !open.sampled || open.trace_id == TraceId::INVALID {
            return;
        }
        self.processor.on_end(SpanData {
            span_context: open.context(),
            parent_span_id: open.parent_id,
            parent_span_is_remote: open.remote,
            span_kind: if is_call(span.metadata()) {
                SpanKind::Server
            } else {
                SpanKind::Internal
            },
            name: span.name().into(),
            start_time: open.began,
            end_time: wall_clock(),
            attributes: open.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: open.links,
            status: match open.failed {
                Some(code) => Status::error(code),
                None => Status::Unset,
            },
            instrumentation_scope: self.scope.clone(),
        });
    }
}

fn is_call(metadata: &Metadata<'_>) -> bool {
    metadata.target() == CALLS
}

impl Open {
    fn keep(&mut self, field: &Field, value: impl Into<Value>) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }
}

impl Visit for Open {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "sampled" => self.sampled = value,
            _ => self.keep(field, value),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "code" {
            self.failed = Some(value.to_owned());
        }
        self.keep(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "trace_id" => self.trace_id = TraceId::from_hex(&text).unwrap_or(TraceId::INVALID),
            "span_id" => self.span_id = SpanId::from_hex(&text).unwrap_or(SpanId::INVALID),
            "parent_id" => {
                self.parent_id = SpanId::from_hex(&text).unwrap_or(SpanId::INVALID);
                self.remote = true;
            }
            _ => self.keep(field, text),
        }
    }
}
