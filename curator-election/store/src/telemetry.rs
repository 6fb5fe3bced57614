//! Metrics of the store, recorded with the `metrics` crate.

use crate::StoreError;
use crate::clock::Instant;

/// The duration of a call to etcd, in seconds, by kind and outcome.
pub const ETCD_CALL_SECONDS: &str = "curator_etcd_call_seconds";
/// The number of endpoints that are members of another etcd cluster than the one in use.
pub const ETCD_FOREIGN_ENDPOINTS: &str = "curator_etcd_foreign_endpoints";

pub(crate) fn foreign_endpoints(count: usize) {
    metrics::gauge!(ETCD_FOREIGN_ENDPOINTS).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
}

pub(crate) fn etcd_called<T>(kind: &'static str, result: &Result<T, StoreError>, began: Instant, ended: Instant) {
    let outcome = match result {
        Ok(_) => "ok",
        Err(error) => error.word(),
    };
    let took = ended.saturating_since(began).as_secs_f64();
    metrics::histogram!(ETCD_CALL_SECONDS, "call" => kind, "outcome" => outcome).record(took);
}
