//! Metrics for Prometheus, and the address that serves them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use curator_service::{OBSERVE_PORT, Observe, telemetry};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// Histogram buckets of durations, in seconds.
const BUCKETS_SECONDS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 4.0, 5.0, 7.5, 10.0, 30.0,
];

/// The recorder has integer counters only, so CPU time in fractions of seconds is recorded as a gauge, and its
/// rendered type is corrected to a counter.
const CPU_AS_GAUGE: &str = "# TYPE process_cpu_seconds_total gauge\n";
const CPU_AS_COUNTER: &str = "# TYPE process_cpu_seconds_total counter\n";

/// The address of the status server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObserveAt {
    Off,
    At(SocketAddr),
}

impl Default for ObserveAt {
    fn default() -> Self {
        Self::At(SocketAddr::from((Ipv4Addr::LOCALHOST, OBSERVE_PORT)))
    }
}

impl fmt::Display for ObserveAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for ObserveAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            text => text.parse().map(Self::At).map_err(|_| {
                format!(
                    "expected an IP address and a port, such as {}, or `off`",
                    Self::default()
                )
            }),
        }
    }
}

impl ObserveAt {
    /// Installs the metrics recorder.
    pub(crate) fn start(self) -> Result<Option<Observe>, BuildError> {
        let Self::At(listen) = self else { return Ok(None) };
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS_SECONDS)?
            .install_recorder()?;
        telemetry::describe();
        let metrics = Arc::new(move || {
            handle.run_upkeep();
            handle.render().replace(CPU_AS_GAUGE, CPU_AS_COUNTER)
        });
        Ok(Some(Observe { listen, metrics }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for text in ["off", "127.0.0.1:7836", "[::1]:1"] {
            assert_eq!(text.parse::<ObserveAt>().unwrap().to_string(), text);
        }
        assert!("7836".parse::<ObserveAt>().unwrap_err().contains("127.0.0.1:7836"));
    }
}
