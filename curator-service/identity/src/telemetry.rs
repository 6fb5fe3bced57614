//! Metrics of credentials, for whoever has installed a recorder of the `metrics` crate.

/// How often new files could not be used, by what they are of.
pub const RELOADS_FAILED: &str = "curator_reloads_failed_total";
