//! What is counted and timed of an election, for whoever has installed a recorder of the `metrics` crate.

use std::time::Duration;

#[cfg(feature = "etcd")]
pub use curator_store::telemetry::{ETCD_CALL_SECONDS, ETCD_FOREIGN_ENDPOINTS};

use crate::store::StoreError;

/// How long a renewal of the own lease took, in seconds, by outcome.
pub const LEASE_RENEWAL_SECONDS: &str = "curator_lease_renewal_seconds";
/// How often the role has changed, by what it has become and why.
pub const ROLE_CHANGES: &str = "curator_role_changes_total";
/// The least time that was left of a term when a renewal moved its deadline, in seconds, since the start.
pub const SMALLEST_MARGIN_SECONDS: &str = "curator_term_smallest_margin_seconds";
/// Accesses that the store refused because their term was over.
pub const FENCED_OUT: &str = "curator_fenced_out_total";

/// One word for how a call of the store went.
pub(crate) const fn outcome<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) => error.word(),
    }
}

pub(crate) fn became_undetermined(reason: &'static str) {
    metrics::counter!(ROLE_CHANGES, "role" => "undetermined", "reason" => reason).increment(1);
}

pub(crate) fn became_follower() {
    metrics::counter!(ROLE_CHANGES, "role" => "follower", "reason" => "elected").increment(1);
}

pub(crate) fn became_leader() {
    metrics::counter!(ROLE_CHANGES, "role" => "leader", "reason" => "elected").increment(1);
}

pub(crate) fn renewed<T>(result: &Result<T, StoreError>, took: Duration) {
    metrics::histogram!(LEASE_RENEWAL_SECONDS, "outcome" => outcome(result)).record(took.as_secs_f64());
}

/// The least time that was left of any term when it was moved on.
#[derive(Debug)]
pub(crate) struct MinRemaining(Option<Duration>);

impl MinRemaining {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// A renewal came `left` before the end of the term.
    pub(crate) fn note(&mut self, left: Duration) {
        if self.0.is_none_or(|smallest| left < smallest) {
            self.0 = Some(left);
            metrics::gauge!(SMALLEST_MARGIN_SECONDS).set(left.as_secs_f64());
        }
    }
}

/// How often the store was found to have lost what it knew before, as when a backup is restored.
pub const STORE_WENT_BACK: &str = "curator_store_went_back_total";

pub(crate) fn store_went_back() {
    metrics::counter!(STORE_WENT_BACK).increment(1);
}

/// Whether another process stands for election with the id of this one.
pub const DUPLICATE_ID: &str = "curator_duplicate_id";

pub(crate) fn duplicate_id(found: bool) {
    metrics::gauge!(DUPLICATE_ID).set(f64::from(u8::from(found)));
}

pub(crate) fn fenced_out() {
    metrics::counter!(FENCED_OUT).increment(1);
}
