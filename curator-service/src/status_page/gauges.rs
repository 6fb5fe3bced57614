//! Gauges that are set at each scrape: role, process and certificates.

use std::time::Duration;

use curator_election::ElectionStatus;
use curator_identity::CredentialsWatch;

use crate::status::LeaderStatus;
use crate::telemetry::{
    CERTIFICATE_END, CLUSTER_INFO, LEADER_SILENT_SECONDS, PROCESS_CPU, PROCESS_FILES, PROCESS_MEMORY, READY, ROLE,
    TERM_LOCK_REVISION, TERM_REMAINING_SECONDS,
};

/// Sets the gauges of the role and of the process.
pub(super) fn update(status: &LeaderStatus, ready: bool, silent: Option<Duration>) {
    metrics::gauge!(LEADER_SILENT_SECONDS).set(silent.unwrap_or_default().as_secs_f64());
    let (role, revision, remaining) = match status {
        // A suspended term does not lead, and has a deadline.
        ElectionStatus::Leader(term) if !term.has_ended() => {
            let role = if term.is_valid() { "leader" } else { "undetermined" };
            (role, term.lock_revision().0, term.remaining().as_secs_f64())
        }
        ElectionStatus::Follower(following) => ("follower", following.revision.0, 0.0),
        ElectionStatus::Leader(_) | ElectionStatus::Undetermined(_) => ("undetermined", 0, 0.0),
    };
    for each in ["leader", "follower", "undetermined"] {
        metrics::gauge!(ROLE, "role" => each).set(if each == role { 1.0 } else { 0.0 });
    }
    #[allow(clippy::cast_precision_loss, reason = "a revision beyond 2^53 takes ages")]
    metrics::gauge!(TERM_LOCK_REVISION).set(revision as f64);
    metrics::gauge!(TERM_REMAINING_SECONDS).set(remaining);
    metrics::gauge!(READY).set(if ready { 1.0 } else { 0.0 });
    process();
}

/// Sets the gauges that identify the cluster and show when its certificates expire.
pub(super) fn update_certificates(credentials: Option<&CredentialsWatch>) {
    let Some(newest) = credentials.map(CredentialsWatch::newest) else {
        metrics::gauge!(CLUSTER_INFO, "cluster" => "").set(1.0);
        return;
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, newest.ca());
    let cluster = curator_identity::hex(digest.as_ref().get(..8).unwrap_or_default());
    metrics::gauge!(CLUSTER_INFO, "cluster" => cluster).set(1.0);
    for (name, end) in newest.ends() {
        #[allow(clippy::cast_precision_loss, reason = "seconds, and far below 2^53")]
        metrics::gauge!(CERTIFICATE_END, "certificate" => name).set(end as f64);
    }
}

/// Sets the gauges of the process, as far as the system reports them.
fn process() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<f64>()
            .ok()
    });
    if let Some(kibibytes) = kibibytes {
        metrics::gauge!(PROCESS_MEMORY).set(kibibytes * 1_024.0);
    }
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    metrics::gauge!(PROCESS_CPU).set(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9);
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        metrics::gauge!(PROCESS_FILES).set(files.count() as f64);
    }
}
