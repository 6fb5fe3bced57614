//! The names of all metrics, and what they are. The election's and the listener's are in their crates.

use curator_election::telemetry as election;
use curator_listener::telemetry as listener;

/// The version and the commit that this was built from; always 1.
pub const BUILD_INFO: &str = "curator_build_info";
/// 1 for the role that the instance has, 0 for the others.
pub const ROLE: &str = "curator_role";
/// The revision of the term that the instance leads in or follows; 0 if it knows of none.
pub const TERM_LOCK_REVISION: &str = "curator_term_lock_revision";
/// What is left of the own term unless it is renewed, in seconds; 0 if the instance does not lead.
pub const TERM_REMAINING_SECONDS: &str = "curator_term_remaining_seconds";
/// 1 if a call to the instance gets to a leader.
pub const READY: &str = "curator_ready";
/// 1 if the instance's node may lead: it is up, and a member of the consensus. Only where the instance has a node's certificate.
pub const MAY_LEAD: &str = "curator_may_lead";
/// How long nothing has been heard of the leader that the instance names, in seconds; 0 while it answers, and while none is known.
pub const LEADER_SILENT_SECONDS: &str = "curator_leader_silent_seconds";
/// How many other instances say that they do not reach this leader; 0 if the instance does not lead.
pub const UNREACHED_BY: &str = "curator_leader_unreached_by";
/// How often this instance, as a leader, has made way because no other one reached it.
pub const MADE_WAY: &str = "curator_made_way_total";
/// Which cluster the instance is of, by its authority; always 1.
pub const CLUSTER_INFO: &str = "curator_cluster_info";
/// When a certificate that is in use ends, in seconds since 1970.
pub const CERTIFICATE_END: &str = "curator_certificate_end_timestamp_seconds";
/// How often the node's certificate was to be renewed because it is about to end, by outcome.
pub const CERTIFICATES_RENEWED: &str = "curator_certificates_renewed_total";
/// How often something new on the disk could not be used, by what it was.
pub const RELOADS_FAILED: &str = curator_identity::telemetry::RELOADS_FAILED;
/// How long the instance knew of no leader, or of one that did not answer, from one to the next, in seconds.
pub const LEADERLESS_SECONDS: &str = "curator_leaderless_seconds";
/// How long a new leader took from its election until it had read the state, in seconds.
pub const TAKEOVER_SECONDS: &str = "curator_takeover_seconds";
/// Watches of nodes that are open at this leader.
pub const WATCHERS: &str = "curator_watchers";
/// Heartbeats of nodes that this leader has heard.
pub const HEARTBEATS: &str = "curator_heartbeats_total";
/// Filters that this leader has refused or ended, by why: `steps`, `memory`, `time`, `gone` or `turns`.
pub const FILTERS_REFUSED: &str = "curator_filters_refused_total";
/// Changes of nodes that had to wait, because the node or all nodes together write faster than they may.
pub const WRITES_PACED: &str = "curator_writes_paced_total";
/// Nodes that were not registered, because too many wait for their approval.
pub const NEWCOMERS_REFUSED: &str = "curator_newcomers_refused_total";
/// Lists of nodes that were taken back, because nobody took them in time, or because others with fewer had no room.
pub const LISTS_TAKEN_BACK: &str = "curator_lists_taken_back_total";
/// Lists of nodes that were not begun, because there was no room for them, and nobody who had more than their caller.
pub const LISTS_REFUSED: &str = "curator_lists_refused_total";
/// 1 if the instance can prove to clients that its node is a member of the consensus.
pub const PROVES_MEMBERSHIP: &str = "curator_proves_membership";
/// Transactions that changes of the state went out in, by outcome.
pub const STATE_COMMITS: &str = "curator_state_commits_total";
/// Changes of the state that were made.
pub const STATE_CHANGES: &str = "curator_state_changes_total";
/// The process's memory, in bytes.
pub const PROCESS_MEMORY: &str = "process_resident_memory_bytes";
/// The process's time on processors, in seconds.
pub const PROCESS_CPU: &str = "process_cpu_seconds_total";
/// The process's open files.
pub const PROCESS_FILES: &str = "process_open_fds";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets.
    Histogram,
}

/// All metrics: name, kind, and what it says.
pub const ALL: &[(&str, Kind, &str)] = &[
    (
        BUILD_INFO,
        Kind::Gauge,
        "The version and commit, in the labels; always 1.",
    ),
    (ROLE, Kind::Gauge, "1 for the role that the instance has."),
    (
        TERM_LOCK_REVISION,
        Kind::Gauge,
        "The revision of the term that the instance leads in or follows; 0 for none.",
    ),
    (
        TERM_REMAINING_SECONDS,
        Kind::Gauge,
        "What is left of the own term unless it is renewed; 0 if it does not lead.",
    ),
    (READY, Kind::Gauge, "1 if a call to the instance gets to a leader."),
    (
        MAY_LEAD,
        Kind::Gauge,
        "1 if the instance's node may lead: it is up, and a member of the consensus.",
    ),
    (
        LEADER_SILENT_SECONDS,
        Kind::Gauge,
        "How long nothing has been heard of the leader that the instance names; 0 while it answers.",
    ),
    (
        UNREACHED_BY,
        Kind::Gauge,
        "How many other instances say that they do not reach this leader; 0 if the instance does not lead.",
    ),
    (
        MADE_WAY,
        Kind::Counter,
        "How often this instance has made way as a leader because no other one reached it.",
    ),
    (
        CLUSTER_INFO,
        Kind::Gauge,
        "Which cluster the instance is of, by its authority; always 1.",
    ),
    (
        CERTIFICATE_END,
        Kind::Gauge,
        "When a certificate that is in use ends, in seconds since 1970.",
    ),
    (
        CERTIFICATES_RENEWED,
        Kind::Counter,
        "How often the node's certificate was to be renewed because it is about to end, by outcome.",
    ),
    (
        RELOADS_FAILED,
        Kind::Counter,
        "How often something new on the disk could not be used, by what it was.",
    ),
    (
        LEADERLESS_SECONDS,
        Kind::Histogram,
        "How long the instance knew of no leader, or of one that did not answer, from one to the next.",
    ),
    (
        TAKEOVER_SECONDS,
        Kind::Histogram,
        "From a leader's election until it had read the state.",
    ),
    (WATCHERS, Kind::Gauge, "Watches of nodes that are open at this leader."),
    (
        FILTERS_REFUSED,
        Kind::Counter,
        "Filters that this leader has refused or ended, by why.",
    ),
    (
        WRITES_PACED,
        Kind::Counter,
        "Changes of nodes that had to wait, because nodes write faster than they may.",
    ),
    (
        NEWCOMERS_REFUSED,
        Kind::Counter,
        "Nodes that were not registered, because too many wait for their approval.",
    ),
    (
        LISTS_TAKEN_BACK,
        Kind::Counter,
        "Lists of nodes that were taken back, because nobody took them in time, or for others' sake.",
    ),
    (
        LISTS_REFUSED,
        Kind::Counter,
        "Lists of nodes that were not begun, because there was no room for them.",
    ),
    (
        PROVES_MEMBERSHIP,
        Kind::Gauge,
        "1 if the instance can prove to clients that its node is a member of the consensus.",
    ),
    (
        listener::MEMORY_HELD,
        Kind::Gauge,
        "What all callers together make this instance hold, in bytes.",
    ),
    (
        listener::MEMORY_LIMIT,
        Kind::Gauge,
        "What all callers together may make this instance hold, in bytes.",
    ),
    (
        listener::WAITS_FOR_ROOM,
        Kind::Counter,
        "How often a caller had no room, so that it was read no further or sent nothing more.",
    ),
    (
        HEARTBEATS,
        Kind::Counter,
        "Heartbeats of nodes that this leader has heard.",
    ),
    (
        STATE_COMMITS,
        Kind::Counter,
        "Transactions that changes of the state went out in, by outcome.",
    ),
    (STATE_CHANGES, Kind::Counter, "Changes of the state that were made."),
    (
        election::ROLE_CHANGES,
        Kind::Counter,
        "Changes of role, by what it has become and why.",
    ),
    (
        election::LEASE_RENEWAL_SECONDS,
        Kind::Histogram,
        "How long renewals of the own lease took, by outcome.",
    ),
    (
        election::SMALLEST_MARGIN_SECONDS,
        Kind::Gauge,
        "The least time that was left of a term when a renewal moved its deadline.",
    ),
    (
        election::DUPLICATE_ID,
        Kind::Gauge,
        "Whether another process stands for election with the id of this one.",
    ),
    (
        election::FENCED_OUT,
        Kind::Counter,
        "Accesses that the store refused because their term was over.",
    ),
    (
        election::STORE_WENT_BACK,
        Kind::Counter,
        "How often the store was found to have lost what it knew before, as when a backup is restored.",
    ),
    (
        election::ETCD_CALL_SECONDS,
        Kind::Histogram,
        "How long calls of etcd took, by kind and outcome.",
    ),
    (
        election::ETCD_FOREIGN_ENDPOINTS,
        Kind::Gauge,
        "Endpoints that are members of another etcd cluster than the one in use, which are not used.",
    ),
    (
        listener::CALLS,
        Kind::Counter,
        "Calls that were answered, by who did: local, leader or forwarded.",
    ),
    (
        listener::CALL_SECONDS,
        Kind::Histogram,
        "How long it took until an answer began, by who answered.",
    ),
    (
        listener::CALLS_REFUSED,
        Kind::Counter,
        "Calls that were refused, by gRPC code.",
    ),
    (
        listener::CALLS_HELD,
        Kind::Gauge,
        "Calls that have had to wait for a leader and have no answer yet.",
    ),
    (
        listener::CALLS_HELD_TOTAL,
        Kind::Counter,
        "Calls that have had to wait for a leader.",
    ),
    (
        listener::LIMITS_REACHED,
        Kind::Counter,
        "How often calls and connections have run into a limit, by its name.",
    ),
    (listener::CONNECTIONS, Kind::Gauge, "Connections that are open."),
    (
        listener::TLS_HANDSHAKES,
        Kind::Counter,
        "TLS handshakes of clients, by outcome.",
    ),
    (PROCESS_MEMORY, Kind::Gauge, "The process's memory in bytes."),
    (PROCESS_CPU, Kind::Gauge, "The process's time on processors in seconds."),
    (PROCESS_FILES, Kind::Gauge, "The process's open files."),
];

/// Tells the recorder what the metrics are, and sets those that do not change. To be called once a recorder is installed.
pub fn describe() {
    for (name, kind, help) in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "commit" => crate::COMMIT).set(1.0);
    // What has not happened yet is 0, and not nothing.
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

/// Why a role ends, as far as it is foreseen: a counter that begins with its first event has no increase.
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
/// With what calls are refused that get to no leader.
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

    /// Dashboards and alerts name nothing that does not exist, and the dashboard leaves nothing out.
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
