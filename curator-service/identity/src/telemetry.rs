//! Metrics of credentials, recorded with the `metrics` crate.

/// Number of failed reloads, by kind of file.
pub const RELOADS_FAILED: &str = "curator_reloads_failed_total";
