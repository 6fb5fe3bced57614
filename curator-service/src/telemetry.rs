//! The names and help texts of all metrics. Those of the election and the listener are defined in their crates.

use curator_election::telemetry as election;
use curator_listener::telemetry as listener;

/// The version and commit of the build; always 1.
pub const BUILD_INFO: &str = "curator_build_info";
/// 1 for the current role of the instance, 0 for the others.
pub const ROLE: &str = "curator_role";
/// The lock revision of the term that the instance leads or follows; 0 if none is known.
pub const TERM_LOCK_REVISION: &str = "curator_term_lock_revision";
/// Time until the instance's own term expires unless renewed, in seconds; 0 if the instance does not lead.
pub const TERM_REMAINING_SECONDS: &str = "curator_term_remaining_seconds";
/// 1 if a call to this instance reaches a leader.
pub const READY: &str = "curator_ready";
/// 1 if the instance's node may lead: it is up and a consensus member. Only set if the instance has a node certificate.
pub const MAY_LEAD: &str = "curator_may_lead";
/// Time since the known leader last responded, in seconds; 0 while it responds or if no leader is known.
pub const LEADER_SILENT_SECONDS: &str = "curator_leader_silent_seconds";
/// Number of other instances that report this leader as unreachable; 0 if the instance does not lead.
pub const UNREACHED_BY: &str = "curator_leader_unreached_by";
/// Times that this leader stepped down because no other instance reached it.
pub const MADE_WAY: &str = "curator_made_way_total";
/// Identifies the cluster, by a digest of its CA; always 1.
pub const CLUSTER_INFO: &str = "curator_cluster_info";
/// When a certificate in use expires, as a Unix timestamp.
pub const CERTIFICATE_END: &str = "curator_certificate_end_timestamp_seconds";
/// Attempts to renew the node's expiring certificate, by outcome.
pub const CERTIFICATES_RENEWED: &str = "curator_certificates_renewed_total";
/// Failed reloads of files, by kind: `credentials` or `configuration`.
pub const RELOADS_FAILED: &str = curator_identity::telemetry::RELOADS_FAILED;
/// Time without a known and responding leader, in seconds.
pub const LEADERLESS_SECONDS: &str = "curator_leaderless_seconds";
/// Time from the election of a leader until it has loaded the state, in seconds.
pub const TAKEOVER_SECONDS: &str = "curator_takeover_seconds";
/// Open node watches at this leader.
pub const WATCHERS: &str = "curator_watchers";
/// Node heartbeats received by this leader.
pub const HEARTBEATS: &str = "curator_heartbeats_total";
/// Filters refused or aborted by this leader, by cause: `steps`, `memory`, `time`, `gone` or `turns`.
pub const FILTERS_REFUSED: &str = "curator_filters_refused_total";
/// Node changes delayed by the write rate limit, of one node or of all nodes together.
pub const WRITES_PACED: &str = "curator_writes_paced_total";
/// Registrations refused because too many nodes wait for approval.
pub const NEWCOMERS_REFUSED: &str = "curator_newcomers_refused_total";
/// `GetNodes` streams evicted because they were not read in time, or to make room for callers with fewer.
pub const LISTS_TAKEN_BACK: &str = "curator_lists_taken_back_total";
/// `GetNodes` streams refused for lack of room, when no caller used more than the refused one.
pub const LISTS_REFUSED: &str = "curator_lists_refused_total";
/// 1 if the instance can prove to clients that its node is a consensus member.
pub const PROVES_MEMBERSHIP: &str = "curator_proves_membership";
/// State transactions, by outcome.
pub const STATE_COMMITS: &str = "curator_state_commits_total";
/// State changes applied.
pub const STATE_CHANGES: &str = "curator_state_changes_total";
/// Resident memory of the process, in bytes.
pub const PROCESS_MEMORY: &str = "process_resident_memory_bytes";
/// CPU time of the process, in seconds.
pub const PROCESS_CPU: &str = "process_cpu_seconds_total";
/// Open file descriptors of the process.
pub const PROCESS_FILES: &str = "process_open_fds";

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

/// All metrics: name, type and help text.
pub const ALL: &[(&str, Kind, &str)] = &[
    (
        BUILD_INFO,
        Kind::Gauge,
        "Version and commit of the build, in the labels; always 1.",
    ),
    (
        ROLE,
        Kind::Gauge,
        "1 for the current role of the instance, 0 for the others.",
    ),
    (
        TERM_LOCK_REVISION,
        Kind::Gauge,
        "Lock revision of the term that the instance leads or follows; 0 if none is known.",
    ),
    (
        TERM_REMAINING_SECONDS,
        Kind::Gauge,
        "Time until the instance's own term expires unless renewed; 0 if it does not lead.",
    ),
    (READY, Kind::Gauge, "1 if a call to this instance reaches a leader."),
    (
        MAY_LEAD,
        Kind::Gauge,
        "1 if the instance's node may lead: it is up and a consensus member.",
    ),
    (
        LEADER_SILENT_SECONDS,
        Kind::Gauge,
        "Time since the known leader last responded; 0 while it responds.",
    ),
    (
        UNREACHED_BY,
        Kind::Gauge,
        "Number of other instances that report this leader as unreachable; 0 if the instance does not lead.",
    ),
    (
        MADE_WAY,
        Kind::Counter,
        "Times that this leader stepped down because no other instance reached it.",
    ),
    (
        CLUSTER_INFO,
        Kind::Gauge,
        "Identifies the cluster, by a digest of its CA; always 1.",
    ),
    (
        CERTIFICATE_END,
        Kind::Gauge,
        "When a certificate in use expires, as a Unix timestamp.",
    ),
    (
        CERTIFICATES_RENEWED,
        Kind::Counter,
        "Attempts to renew the node's expiring certificate, by outcome.",
    ),
    (RELOADS_FAILED, Kind::Counter, "Failed reloads of files, by kind."),
    (
        LEADERLESS_SECONDS,
        Kind::Histogram,
        "Time without a known and responding leader.",
    ),
    (
        TAKEOVER_SECONDS,
        Kind::Histogram,
        "Time from the election of a leader until it has loaded the state.",
    ),
    (WATCHERS, Kind::Gauge, "Open node watches at this leader."),
    (
        FILTERS_REFUSED,
        Kind::Counter,
        "Filters refused or aborted by this leader, by cause.",
    ),
    (
        WRITES_PACED,
        Kind::Counter,
        "Node changes delayed by the write rate limit.",
    ),
    (
        NEWCOMERS_REFUSED,
        Kind::Counter,
        "Registrations refused because too many nodes wait for approval.",
    ),
    (
        LISTS_TAKEN_BACK,
        Kind::Counter,
        "GetNodes streams evicted because they were not read in time, or to make room for other callers.",
    ),
    (
        LISTS_REFUSED,
        Kind::Counter,
        "GetNodes streams refused for lack of room.",
    ),
    (
        PROVES_MEMBERSHIP,
        Kind::Gauge,
        "1 if the instance can prove to clients that its node is a consensus member.",
    ),
    (
        listener::MEMORY_HELD,
        Kind::Gauge,
        "Memory buffered for all callers together, in bytes.",
    ),
    (
        listener::MEMORY_LIMIT,
        Kind::Gauge,
        "Limit of the memory buffered for all callers together, in bytes.",
    ),
    (
        listener::WAITS_FOR_ROOM,
        Kind::Counter,
        "Times that reading from or writing to a caller paused because the memory limit was reached.",
    ),
    (HEARTBEATS, Kind::Counter, "Node heartbeats received by this leader."),
    (STATE_COMMITS, Kind::Counter, "State transactions, by outcome."),
    (STATE_CHANGES, Kind::Counter, "State changes applied."),
    (
        election::ROLE_CHANGES,
        Kind::Counter,
        "Role changes, by new role and reason.",
    ),
    (
        election::LEASE_RENEWAL_SECONDS,
        Kind::Histogram,
        "Duration of lease renewals, by outcome.",
    ),
    (
        election::SMALLEST_MARGIN_SECONDS,
        Kind::Gauge,
        "Least time left until the term's deadline when a renewal extended it.",
    ),
    (
        election::FAILOVER_LIMIT_SECONDS,
        Kind::Gauge,
        "How soon this instance may be deposed once it has died as leader; 0 if only when its lease expires.",
    ),
    (
        election::TERM_CONFIRMATION_SECONDS,
        Kind::Histogram,
        "Duration of the reads that confirm this instance's term, by outcome.",
    ),
    (
        election::TERM_SUSPENDED_SECONDS,
        Kind::Histogram,
        "How long this instance's term was suspended, until the store confirmed it again.",
    ),
    (
        election::CHALLENGES,
        Kind::Counter,
        "Challenges, by event: made, refuted or deposed by this instance, received by it as leader.",
    ),
    (
        election::DUPLICATE_ID,
        Kind::Gauge,
        "1 if another process campaigns with this instance's ID.",
    ),
    (
        election::FENCED_OUT,
        Kind::Counter,
        "Operations that the store rejected because their term had ended.",
    ),
    (
        election::STORE_WENT_BACK,
        Kind::Counter,
        "Times that the store lost data that was known before, as after restoring a backup.",
    ),
    (
        election::ETCD_CALL_SECONDS,
        Kind::Histogram,
        "Duration of etcd calls, by kind and outcome.",
    ),
    (
        election::ETCD_FOREIGN_ENDPOINTS,
        Kind::Gauge,
        "Endpoints that are ignored because they belong to another etcd cluster.",
    ),
    (
        listener::CALLS,
        Kind::Counter,
        "Calls answered, by who answered: local, leader or forwarded.",
    ),
    (
        listener::CALL_SECONDS,
        Kind::Histogram,
        "Time until the response began, by who answered.",
    ),
    (listener::CALLS_REFUSED, Kind::Counter, "Calls refused, by gRPC code."),
    (
        listener::CALLS_HELD,
        Kind::Gauge,
        "Calls that were queued for a leader and have no response yet.",
    ),
    (
        listener::CALLS_HELD_TOTAL,
        Kind::Counter,
        "Calls that were queued for a leader.",
    ),
    (
        listener::LIMITS_REACHED,
        Kind::Counter,
        "Times that calls or connections reached a limit, by limit.",
    ),
    (
        listener::LEADER_SERVICES_FAILED,
        Kind::Counter,
        "Terms of this instance in which the leader's services failed to start.",
    ),
    (listener::CONNECTIONS, Kind::Gauge, "Open connections."),
    (
        listener::TLS_HANDSHAKES,
        Kind::Counter,
        "TLS handshakes with clients, by outcome.",
    ),
    (PROCESS_MEMORY, Kind::Gauge, "Resident memory of the process in bytes."),
    (PROCESS_CPU, Kind::Gauge, "CPU time of the process in seconds."),
    (PROCESS_FILES, Kind::Gauge, "Open file descriptors of the process."),
];

/// Describes the metrics to the recorder and sets the constant ones. Call it once a recorder is installed.
pub fn describe() {
    for (name, kind, help) in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "commit" => crate::COMMIT).set(1.0);
    // Counters start at 0, so that their first increase is visible.
    metrics::counter!(election::FENCED_OUT).absolute(0);
    metrics::counter!(election::STORE_WENT_BACK).absolute(0);
    metrics::counter!(HEARTBEATS).absolute(0);
    metrics::gauge!(WATCHERS).set(0.0);
    for why in ["steps", "memory", "time", "gone", "turns"] {
        metrics::counter!(FILTERS_REFUSED, "why" => why).absolute(0);
    }
    for counter in [
        WRITES_PACED,
        NEWCOMERS_REFUSED,
        LISTS_TAKEN_BACK,
        LISTS_REFUSED,
        listener::WAITS_FOR_ROOM,
        listener::LEADER_SERVICES_FAILED,
    ] {
        metrics::counter!(counter).absolute(0);
    }
    metrics::gauge!(PROVES_MEMBERSHIP).set(0.0);
    metrics::gauge!(LEADER_SILENT_SECONDS).set(0.0);
    metrics::gauge!(UNREACHED_BY).set(0.0);
    metrics::counter!(MADE_WAY).absolute(0);
    metrics::gauge!(election::DUPLICATE_ID).set(0.0);
    metrics::counter!(STATE_CHANGES).absolute(0);
    for outcome in ["ok", "failed"] {
        metrics::counter!(STATE_COMMITS, "outcome" => outcome).absolute(0);
    }
    for role in ["leader", "follower"] {
        metrics::counter!(election::ROLE_CHANGES, "role" => role, "reason" => "elected").absolute(0);
    }
    for reason in REASONS {
        metrics::counter!(election::ROLE_CHANGES, "role" => "undetermined", "reason" => *reason).absolute(0);
    }
    for code in CODES {
        metrics::counter!(listener::CALLS_REFUSED, "code" => *code).absolute(0);
    }
    for outcome in ["ok", "failed"] {
        metrics::counter!(listener::TLS_HANDSHAKES, "outcome" => outcome).absolute(0);
    }
    for outcome in ["ok", "failed"] {
        metrics::counter!(CERTIFICATES_RENEWED, "outcome" => outcome).absolute(0);
    }
    for of in ["credentials", "configuration"] {
        metrics::counter!(RELOADS_FAILED, "of" => of).absolute(0);
    }
}

/// The known reasons for which a role ends. A counter that starts with its first event shows no increase.
const REASONS: &[&str] = &[
    "lease_expired",
    "lease_gone",
    "lock_lost",
    "fenced_out",
    "step_down",
    "shutdown",
    "no_leader",
    "news_too_old",
    "went_back",
    "wrong_cluster",
    "stuck",
    "barred",
    "duplicate",
    "unreachable",
    "no_answer",
    "no_quorum",
    "no_space",
    "permission",
    "authentication",
    "overloaded",
    "not_running",
];
/// The gRPC codes of calls that reach no leader.
const CODES: &[&str] = &[
    "unavailable",
    "resource_exhausted",
    "deadline_exceeded",
    "unauthenticated",
    "permission_denied",
    "invalid_argument",
    "internal",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for (name, kind, help) in ALL {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(good), "{name}");
            let process = name.starts_with("process_");
            assert!(name.starts_with("curator_") || process, "{name}");
            assert_eq!(
                name.ends_with("_total"),
                *kind == Kind::Counter || *name == PROCESS_CPU,
                "{name}"
            );
            assert!(*kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(help.ends_with('.'), "{help}");
        }
        let mut names: Vec<_> = ALL.iter().map(|(name, ..)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    /// Dashboards and alerts use only existing metrics, and the dashboard shows every metric.
    #[test]
    fn dashboards_and_alerts_use_names_that_exist() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
        let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).expect(path);
        let (dashboard, alerts) = (read("grafana/dashboard.json"), read("prometheus/alerts.yaml"));
        let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
        let mut expressions: Vec<&str> = Vec::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                expressions.push(target["expr"].as_str().expect("an expression"));
            }
        }
        let in_dashboard = expressions.len();
        expressions.extend(alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")));
        assert!(expressions.len() > in_dashboard);
        let words = |text: &str| {
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let ours = |word: &&str| word.starts_with("curator_") || word.starts_with("process_");
            words.filter(ours).map(str::to_owned).collect::<Vec<_>>()
        };
        let named = |word: &str, (name, kind, _): &(&str, Kind, &str)| match kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|end| *word == format!("{name}{end}")),
            _ => word == *name,
        };
        for word in expressions.iter().flat_map(|expression| words(expression)) {
            assert!(ALL.iter().any(|each| named(&word, each)), "{word}");
        }
        for each in ALL {
            let shown = expressions[..in_dashboard]
                .iter()
                .flat_map(|expression| words(expression));
            assert!(
                shown.into_iter().any(|word| named(&word, each)),
                "the dashboard lacks {}",
                each.0
            );
        }
    }
}
