//! Exports spans to an OTLP collector: in batches, on a thread of its own, from a bounded queue.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor};
use tokio::runtime::Runtime;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer, Registry};

use super::spans::{CALLS, Spans};

/// Maximum time between two batches.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of one batch; after it, the batch is dropped.
const BATCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of queued spans: half a minute at a hundred calls per second. Further spans are dropped.
const MAX_QUEUED_SPANS: usize = 8_192;
/// Timeout for the remaining spans at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection to a collector.
pub(crate) struct Export {
    processor: Arc<BatchSpanProcessor>,
    /// The runtime of the connection; `None` after shutdown.
    runtime: Option<Runtime>,
}

/// Why the export cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The scheme is not `http://`.
    #[error(
        "the scheme of the OTLP endpoint `{0}` is not http://; run a collector beside the instance, which can use TLS"
    )]
    Scheme(String),
    /// The URL is invalid.
    #[error("invalid OTLP endpoint `{0}`: expected http://host:4317: {1}")]
    Endpoint(String, ExporterBuildError),
    /// The export thread cannot start.
    #[error("cannot start the export of spans: {0}")]
    Thread(#[from] std::io::Error),
}

impl Export {
    /// Starts the export. It connects when there are spans to send, and reconnects as needed.
    pub(crate) fn start(endpoint: &str, node_id: Option<&str>) -> Result<Self, ExportError> {
        if !endpoint.starts_with("http://") {
            return Err(ExportError::Scheme(endpoint.to_owned()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()?;
        let within = runtime.enter();
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(BATCH_TIMEOUT)
            .build()
            .map_err(|error| ExportError::Endpoint(endpoint.to_owned(), error))?;
        let batches = BatchConfigBuilder::default()
            .with_scheduled_delay(BATCH_INTERVAL)
            .with_max_queue_size(MAX_QUEUED_SPANS)
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        drop(within);
        let mut about = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
        about.extend(node_id.map(|id| KeyValue::new("service.instance.id", id.to_owned())));
        processor.set_resource(
            &Resource::builder_empty()
                .with_service_name("curator")
                .with_attributes(about)
                .build(),
        );
        Ok(Self {
            processor: Arc::new(processor),
            runtime: Some(runtime),
        })
    }

    /// The layer that records the spans of calls and their children.
    pub(crate) fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let spans = Targets::new()
            .with_target(CALLS, LevelFilter::DEBUG)
            .with_target("curator::etcd", LevelFilter::DEBUG);
        Spans::new(self.processor.clone()).with_filter(spans)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Spans that the collector does not accept are dropped; the instance does not fail.
        let _ = self.processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
