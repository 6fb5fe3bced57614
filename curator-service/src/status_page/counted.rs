//! Counts the metrics of one thread, for tests.

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

/// A recorder that belongs to one test.
pub(crate) struct Counted(PrometheusRecorder);

impl Counted {
    pub(crate) fn new() -> Self {
        Self(PrometheusBuilder::new().build_recorder())
    }

    /// Records the metrics of this thread until the returned guard is dropped.
    pub(crate) fn begin(&self) -> metrics::LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(&self.0)
    }

    /// The value of a metric with labels in Prometheus format; 0 if nothing was recorded.
    pub(crate) fn of(&self, metric: &str) -> u64 {
        let text = self.0.handle().render();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}
