//! Metrics for Prometheus, and where they are.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use curator_service::{OBSERVE_PORT, Observe, telemetry};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// Bounds of the buckets of times, in seconds.
const SECONDS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 4.0, 5.0, 7.5, 10.0, 30.0,
];

/// What is rendered of the time on processors. Counters of the recorder have whole numbers, and this one has fractions of seconds;
/// so it is a gauge to the recorder, and what it is to Prometheus is said here.
const CPU_AS_GAUGE: &str = "# TYPE process_cpu_seconds_total gauge\n";
const CPU_AS_COUNTER: &str = "# TYPE process_cpu_seconds_total counter\n";

/// Where an instance is looked at.
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
            text => text
                .parse()
                .map(Self::At)
                .map_err(|_| format!("give an address and port, such as {}, or `off`", Self::default())),
        }
    }
}

impl ObserveAt {
    /// Begins to count.
    pub(crate) fn start(self) -> Result<Option<Observe>, BuildError> {
        let Self::At(listen) = self else { return Ok(None) };
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
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
