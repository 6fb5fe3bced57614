//! Sending spans to an OTLP collector: in batches, from a thread of their own, and never more than wait in a bounded queue.

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

/// A batch is sent at least so often ...
const EVERY: Duration = Duration::from_secs(1);
/// ... and given up after this. What cannot be sent is dropped.
const TIMEOUT: Duration = Duration::from_secs(5);
/// As many spans may wait; any more are dropped. At a hundred calls a second, half a minute.
const MOST_WAITING: usize = 8_192;
/// How long what is left may take at the end.
const LAST: Duration = Duration::from_secs(2);

/// The way to a collector.
pub(crate) struct Export {
    processor: Arc<BatchSpanProcessor>,
    /// Of the connection; `None` once it is given up.
    runtime: Option<Runtime>,
}

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// Not `http://`.
    #[error("the OTLP endpoint `{0}` is not http://: run a collector beside the instance, and let that one encrypt")]
    Scheme(String),
    /// The URL cannot be used.
    #[error("the OTLP endpoint `{0}` cannot be used, give it as http://host:4317: {1}")]
    Endpoint(String, ExporterBuildError),
    /// No thread for it.
    #[error("cannot begin to send spans: {0}")]
    Thread(#[from] std::io::Error),
}

impl Export {
    /// Begins. The connection is made when there is something to send, and made again when it breaks.
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
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| ExportError::Endpoint(endpoint.to_owned(), error))?;
        let batches = BatchConfigBuilder::default()
            .with_scheduled_delay(EVERY)
            .with_max_queue_size(MOST_WAITING)
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

    /// Takes the spans of calls, and what is done for them.
    pub(crate) fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let spans = Targets::new()
            .with_target(CALLS, LevelFilter::DEBUG)
            .with_target("curator::etcd", LevelFilter::DEBUG);
        Spans::new(self.processor.clone()).with_filter(spans)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // Should the collector not answer, the spans are lost, which is no failure of the instance.
        let _ = self.processor.shutdown_with_timeout(LAST);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
