//! The gRPC status of a call that failed in the store.
//!
//! The code tells the caller what to do: retry (`UNAVAILABLE`), send less or free space (`RESOURCE_EXHAUSTED`), or wait
//! for an operator (`FAILED_PRECONDITION`). The store's own error goes to the log only.

use curator_election::store::{RefusalKind, StoreError};
use tonic::Status;
use tracing::warn;

use crate::complaint::Complaint;

static COMPLAINT: Complaint = Complaint::new();

pub(super) fn status(error: &StoreError) -> Status {
    let status = of(error);
    COMPLAINT.say(|left_out| warn!(%error, left_out, "{}", status.message()));
    status
}

fn of(error: &StoreError) -> Status {
    match error.refusal() {
        None if !error.never_ran() => {
            Status::unavailable("the cluster's store did not answer: the change may or may not have been made")
        }
        None if matches!(error, StoreError::NoQuorum { .. }) => {
            Status::unavailable("the cluster's store has no quorum: nothing was changed")
        }
        None => Status::unavailable("the cluster's store is unreachable: nothing was changed"),
        Some(RefusalKind::NoSpace) => {
            Status::resource_exhausted("the cluster's store is out of space (etcd: NOSPACE): nothing was changed")
        }
        Some(RefusalKind::TooLarge) => {
            Status::resource_exhausted("the request is too large for the cluster's store: nothing was changed")
        }
        Some(RefusalKind::Overloaded) => Status::unavailable("the cluster's store is overloaded: nothing was changed"),
        Some(RefusalKind::Permission | RefusalKind::Authentication) => {
            Status::failed_precondition("the cluster's store denied access to the leader: nothing was changed")
        }
        Some(RefusalKind::WrongCluster | RefusalKind::FutureRevision) => Status::unavailable(
            "the cluster's store is now another etcd cluster or has lost history: nothing was changed",
        ),
        Some(_) => Status::internal("the cluster's store refused the request: nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use curator_election::store::Revision;
    use tonic::Code;

    use super::*;

    #[test]
    fn codes_say_what_the_caller_can_do() {
        let refused = |kind| StoreError::Refused {
            kind,
            reason: "a secret".into(),
        };
        let reason = || "a secret".to_owned();
        for (error, code, part) in [
            (
                StoreError::Unreachable { reason: reason() },
                Code::Unavailable,
                "is unreachable",
            ),
            (
                StoreError::NoQuorum { reason: reason() },
                Code::Unavailable,
                "has no quorum",
            ),
            (
                StoreError::Unknown { reason: reason() },
                Code::Unavailable,
                "may or may not have been made",
            ),
            (refused(RefusalKind::NoSpace), Code::ResourceExhausted, "out of space"),
            (refused(RefusalKind::TooLarge), Code::ResourceExhausted, "too large"),
            (refused(RefusalKind::Overloaded), Code::Unavailable, "overloaded"),
            (
                refused(RefusalKind::Permission),
                Code::FailedPrecondition,
                "denied access",
            ),
            (
                refused(RefusalKind::Authentication),
                Code::FailedPrecondition,
                "denied access",
            ),
            (
                refused(RefusalKind::WrongCluster),
                Code::Unavailable,
                "another etcd cluster",
            ),
            (
                refused(RefusalKind::FutureRevision),
                Code::Unavailable,
                "another etcd cluster",
            ),
            (refused(RefusalKind::Other), Code::Internal, "refused the request"),
            (
                StoreError::Compacted { revision: Revision(3) },
                Code::Unavailable,
                "is unreachable",
            ),
        ] {
            let status = of(&error);
            assert_eq!(status.code(), code, "{error}");
            assert!(status.message().contains(part), "{error}: {status}");
            assert!(!status.message().contains("a secret"), "{status}");
        }
    }
}
