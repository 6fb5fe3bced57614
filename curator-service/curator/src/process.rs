//! The process: supervisor, leases, systemd, logs, traces, metrics, and the clock of the host.

pub(crate) mod clock;
pub(crate) mod lease_file;
pub(crate) mod lease_report;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod new_store;
pub(crate) mod otlp;
pub(crate) mod supervisor;
pub(crate) mod systemd;
