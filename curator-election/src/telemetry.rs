//! Metrics of the election, recorded with the `metrics` crate. Those of an election with a name have it in the label
//! `election`.

use std::time::Duration;

#[cfg(feature = "etcd")]
pub use curator_store::telemetry::{ETCD_CALL_SECONDS, ETCD_FOREIGN_ENDPOINTS};
use metrics::Label;

use crate::store::StoreError;

/// The duration of a renewal of the own lease, in seconds, by outcome.
pub const LEASE_RENEWAL_SECONDS: &str = "curator_lease_renewal_seconds";
/// The number of role changes, by new role and reason.
pub const ROLE_CHANGES: &str = "curator_role_changes_total";
/// The minimum remaining time of a term when a renewal moved its deadline, in seconds, since the start.
pub const SMALLEST_MARGIN_SECONDS: &str = "curator_term_smallest_margin_seconds";
/// The number of accesses that the store rejected because their term had ended.
pub const FENCED_OUT: &str = "curator_fenced_out_total";

/// The duration of a read that confirms the own term, in seconds, by outcome.
pub const TERM_CONFIRMATION_SECONDS: &str = "curator_term_confirmation_seconds";
/// How long a term was suspended, in seconds.
pub const TERM_SUSPENDED_SECONDS: &str = "curator_term_suspended_seconds";
/// The number of challenges: by this candidate (`made`, `refuted`, `deposed`), and of this candidate's term
/// (`received`, which it has refuted).
pub const CHALLENGES: &str = "curator_challenges_total";
/// The failover limit in effect, in seconds; 0 without.
pub const FAILOVER_LIMIT_SECONDS: &str = "curator_failover_limit_seconds";

pub(crate) fn confirmed<T>(result: &Result<T, StoreError>, took: Duration) {
    metrics::histogram!(TERM_CONFIRMATION_SECONDS, "outcome" => outcome(result)).record(took.as_secs_f64());
}

pub(crate) fn suspended(time: Duration) {
    metrics::histogram!(TERM_SUSPENDED_SECONDS).record(time.as_secs_f64());
}

pub(crate) fn challenge(event: &'static str) {
    metrics::counter!(CHALLENGES, "event" => event).increment(1);
}

pub(crate) fn failover_limit(limit: Option<Duration>) {
    metrics::gauge!(FAILOVER_LIMIT_SECONDS).set(limit.unwrap_or_default().as_secs_f64());
}

/// The value of the label `outcome`.
pub(crate) const fn outcome<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) => error.word(),
    }
}

tokio::task_local! {
    /// The name of the election whose elector runs in this task. All work of an elector is in one future.
    static ELECTION: Option<String>;
}

/// Runs the elector of an election with this name.
pub(crate) async fn of_election<F: Future>(name: Option<String>, run: F) -> F::Output {
    ELECTION.scope(name, run).await
}

/// The name of the election whose elector runs in this task, if it has one.
pub(crate) fn election() -> Option<String> {
    ELECTION.try_with(Clone::clone).ok().flatten()
}

/// The span of an election with this name.
pub(crate) fn span(name: Option<&str>) -> tracing::Span {
    match name {
        Some(election) => tracing::info_span!("election", election),
        None => tracing::Span::none(),
    }
}

/// The labels, and that of the election if it has a name.
fn labels<const N: usize>(of: [(&'static str, &'static str); N], election: Option<String>) -> Vec<Label> {
    let named = election.map(|election| Label::new("election", election));
    of.into_iter()
        .map(|(key, value)| Label::from_static_parts(key, value))
        .chain(named)
        .collect()
}

fn changed_role(role: &'static str, reason: &'static str) {
    let labels = labels([("role", role), ("reason", reason)], election());
    metrics::counter!(ROLE_CHANGES, labels).increment(1);
}

pub(crate) fn became_undetermined(reason: &'static str) {
    changed_role("undetermined", reason);
}

pub(crate) fn became_follower() {
    changed_role("follower", "elected");
}

pub(crate) fn became_leader() {
    changed_role("leader", "elected");
}

pub(crate) fn renewed<T>(result: &Result<T, StoreError>, took: Duration) {
    let labels = labels([("outcome", outcome(result))], election());
    metrics::histogram!(LEASE_RENEWAL_SECONDS, labels).record(took.as_secs_f64());
}

/// The minimum remaining time of any term at a renewal.
#[derive(Debug)]
pub(crate) struct MinRemaining(Option<Duration>);

impl MinRemaining {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Records a renewal with this much of the term remaining.
    pub(crate) fn record(&mut self, remaining: Duration) {
        if self.0.is_none_or(|min| remaining < min) {
            self.0 = Some(remaining);
            metrics::gauge!(SMALLEST_MARGIN_SECONDS, labels([], election())).set(remaining.as_secs_f64());
        }
    }
}

/// The number of times that the store's revision went back, as after a restore of a backup.
pub const STORE_WENT_BACK: &str = "curator_store_went_back_total";

pub(crate) fn store_went_back() {
    metrics::counter!(STORE_WENT_BACK, labels([], election())).increment(1);
}

/// Whether another process campaigns with the id of this one.
pub const DUPLICATE_ID: &str = "curator_duplicate_id";

pub(crate) fn duplicate_id(found: bool) {
    metrics::gauge!(DUPLICATE_ID, labels([], election())).set(f64::from(u8::from(found)));
}

/// The election is that of the term: the access was made outside the elector.
pub(crate) fn fenced_out(election: Option<&str>) {
    metrics::counter!(FENCED_OUT, labels([], election.map(str::to_owned))).increment(1);
}
