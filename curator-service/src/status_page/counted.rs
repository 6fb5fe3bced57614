//! What tests see of the metrics that something on their own thread counts.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

/// A recorder of a test's own.
pub(crate) struct Counted(PrometheusRecorder);

impl Counted {
    pub(crate) fn new() -> Self {
        Self(PrometheusBuilder::new().build_recorder())
    }

    /// Counts what this thread does, as long as what is returned lives.
    pub(crate) fn begin(&self) -> metrics::LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(&self.0)
    }

    /// The value of a metric, with its labels as Prometheus writes them; 0 if nothing was counted.
    pub(crate) fn of(&self, metric: &str) -> u64 {
        let text = self.0.handle().render();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}
