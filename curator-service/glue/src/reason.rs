//! Why there is no leader, for callers.

use curator_election::Reason;

/// Why the leader is unknown, for callers, who may be strangers. The store's own error goes to the log only.
#[must_use]
pub fn public_reason(reason: &Reason) -> String {
    match reason {
        Reason::WrongCluster(_) => "the etcd endpoints belong to different clusters".into(),
        Reason::OpenFailed { word, .. } | Reason::CampaignFailed { word, .. } => {
            format!("this instance cannot take part in the election: {}", failure_text(word))
        }
        Reason::Undecodable(_) => "the leader's election value cannot be decoded".into(),
        // The other reasons have texts of this program.
        reason => reason.to_string(),
    }
}

/// The kind of a store's failure, without its address and its own error.
fn failure_text(word: &str) -> &'static str {
    match word {
        "not_running" => "its consensus is not running yet",
        "unreachable" => "etcd is unreachable",
        "no_answer" => "etcd does not answer",
        "no_quorum" => "etcd has no quorum: too few of its members are up or connected to each other",
        "no_space" => "etcd is out of space",
        "permission" => "permission denied by etcd",
        "authentication" => "etcd authentication failed",
        "overloaded" => "etcd is overloaded",
        "wrong_cluster" => "the etcd endpoints belong to different clusters",
        "future_revision" | "compacted" => "etcd has lost or compacted its history",
        "key_lost" | "lease_not_found" => "its lock key or lease is gone",
        _ => "etcd refused the request",
    }
}
