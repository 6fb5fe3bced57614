//! Where the spans of calls go: nowhere, or with the feature `otlp` to a collector.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod spans;

use clap::Args;
use tracing_subscriber::{Layer, Registry};

/// Where the spans of calls go.
#[derive(Args)]
pub(crate) struct TraceArgs {
    /// The OTLP collector that gets the spans of calls, over gRPC without TLS, as http://host:4317: run one beside the instance
    /// [default: none, and no spans are made].
    #[cfg(feature = "otlp")]
    #[arg(long, env = "CURATOR_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// What takes the spans. Dropping it sends what is left, within seconds.
#[derive(Default)]
pub(crate) struct Traces {
    #[cfg(feature = "otlp")]
    export: Option<export::Export>,
}

impl TraceArgs {
    /// Begins to send spans, if they go anywhere. Nothing is asked of the collector yet.
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
    /// For the subscriber.
    #[cfg_attr(not(feature = "otlp"), allow(clippy::unused_self, reason = "with `otlp` it does"))]
    pub(crate) fn layer(&self) -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
        #[cfg(feature = "otlp")]
        return self.export.as_ref().map(|export| export.layer().boxed());
        #[cfg(not(feature = "otlp"))]
        None
    }
}
