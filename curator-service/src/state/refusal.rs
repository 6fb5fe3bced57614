//! What a caller is told when the store does not do what its call needs.
//!
//! The code says what the caller can do about it: try again (`UNAVAILABLE`), ask for less or have space made (`RESOURCE_EXHAUSTED`),
//! or nothing before an operator has (`FAILED_PRECONDITION`). What the store says of itself is for the log.

use curator_election::store::{RefusalKind, StoreError};
use tonic::Status;
use tracing::warn;

use crate::complaint::Complaint;

static COMPLAINT: Complaint = Complaint::new();

pub(super) fn told(error: &StoreError) -> Status {
    let status = of(error);
    COMPLAINT.say(|left_out| warn!(%error, left_out, "{}", status.message()));
    status
}

fn of(error: &StoreError) -> Status {
    match error.refusal() {
        None if !error.never_ran() => {
            Status::unavailable("no answer from the cluster's store: a change may have been made or not")
        }
        None if matches!(error, StoreError::NoQuorum { .. }) => {
            Status::unavailable("the cluster's store has no quorum: nothing was done")
        }
        None => Status::unavailable("the cluster's store cannot be reached: nothing was done"),
        Some(RefusalKind::NoSpace) => {
            Status::resource_exhausted("the cluster's store is out of space (etcd: NOSPACE): nothing was done")
        }
        Some(RefusalKind::TooLarge) => {
            Status::resource_exhausted("this is more at once than the cluster's store takes: nothing was done")
        }
        Some(RefusalKind::Overloaded) => {
            Status::unavailable("the cluster's store has too much to do: nothing was done")
        }
        Some(RefusalKind::Permission | RefusalKind::Authentication) => {
            Status::failed_precondition("the cluster's store does not let the leader do this: nothing was done")
        }
        Some(RefusalKind::WrongCluster | RefusalKind::FutureRevision) => {
            Status::unavailable("the cluster's store is another one than before: nothing was done")
        }
        Some(_) => Status::internal("the cluster's store refuses this: nothing was done"),
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
                "cannot be reached",
            ),
            (
                StoreError::NoQuorum { reason: reason() },
                Code::Unavailable,
                "has no quorum",
            ),
            (
                StoreError::Unknown { reason: reason() },
                Code::Unavailable,
                "may have been made or not",
            ),
            (refused(RefusalKind::NoSpace), Code::ResourceExhausted, "out of space"),
            (refused(RefusalKind::TooLarge), Code::ResourceExhausted, "more at once"),
            (refused(RefusalKind::Overloaded), Code::Unavailable, "too much to do"),
            (
                refused(RefusalKind::Permission),
                Code::FailedPrecondition,
                "let the leader",
            ),
            (
                refused(RefusalKind::Authentication),
                Code::FailedPrecondition,
                "let the leader",
            ),
            (refused(RefusalKind::WrongCluster), Code::Unavailable, "another one"),
            (refused(RefusalKind::FutureRevision), Code::Unavailable, "another one"),
            (refused(RefusalKind::Other), Code::Internal, "refuses this"),
            (
                StoreError::Compacted { revision: Revision(3) },
                Code::Unavailable,
                "cannot be reached",
            ),
        ] {
            let status = of(&error);
            assert_eq!(status.code(), code, "{error}");
            assert!(status.message().contains(part), "{error}: {status}");
            assert!(!status.message().contains("a secret"), "{status}");
        }
    }
}
