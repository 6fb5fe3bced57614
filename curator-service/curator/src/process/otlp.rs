//! Export of the spans of calls to an OTLP collector, with the feature `otlp`.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod spans;

use clap::Args;
use tracing_subscriber::{Layer, Registry};

/// The export of spans.
#[derive(Args)]
pub(crate) struct TraceArgs {
    /// OTLP collector for the spans of calls, over gRPC without TLS, as http://host:4317. Run a collector beside the
    /// instance.
    #[cfg(feature = "otlp")]
    #[arg(long, env = "CURATOR_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// The running export. Dropping it sends the remaining spans, within seconds.
#[derive(Default)]
pub(crate) struct Traces {
    #[cfg(feature = "otlp")]
    export: Option<export::Export>,
}

impl TraceArgs {
    /// Starts the export, if it is configured. The connection is made later.
    #[cfg_attr(
        not(feature = "otlp"),
        allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "with `otlp` it does")
    )]
    pub(crate) fn start(&self, node_id: Option<&str>) -> Result<Traces, Box<dyn std::error::Error>> {
        #[cfg(feature = "otlp")]
        return Ok(Traces {
            export: match &self.otlp_endpoint {
                Some(endpoint) => Some(export::Export::start(endpoint, node_id)?),
                None => None,
            },
        });
        #[cfg(not(feature = "otlp"))]
        {
            let _ = node_id;
            Ok(Traces::default())
        }
    }
}

impl Traces {
    /// The layer for the subscriber.
    #[cfg_attr(not(feature = "otlp"), allow(clippy::unused_self, reason = "with `otlp` it does"))]
    pub(crate) fn layer(&self) -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
        #[cfg(feature = "otlp")]
        return self.export.as_ref().map(|export| export.layer().boxed());
        #[cfg(not(feature = "otlp"))]
        None
    }
}
