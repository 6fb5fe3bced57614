//! Classification of the errors of etcd-client.
//!
//! A call counts as not executed only with proof: the connection could not be established. Any other lost response may
//! follow the call's success. etcd's codes are those of `api/v3/v3rpc/rpctypes/error.go`.

pub(super) mod rejection;

use std::error::Error as _;

use tonic::{Code, ConnectError};

use crate::{LeaseId, RefusalKind, Revision, StoreError};

/// The kind of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// A read.
    Read,
    /// A write, with the lease that it refers to.
    Write(Option<LeaseId>),
    /// A renewal.
    KeepAlive(LeaseId),
}

impl Call {
    /// The value of the metrics label.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write(_) => "write",
            Self::KeepAlive(_) => "keep_alive",
        }
    }
}

pub(super) fn store_error(call: Call, error: &etcd_client::Error) -> StoreError {
    let reason = rejection::describe(error);
    match (error, call) {
        // etcd-client returns this error only for a lease that etcd does not have.
        (etcd_client::Error::LeaseKeepAliveError(_), Call::KeepAlive(id)) => StoreError::LeaseNotFound { id },
        (etcd_client::Error::GRpcStatus(status), call) => of_status(call, status, reason),
        (
            etcd_client::Error::InvalidArgs(_)
            | etcd_client::Error::InvalidUri(_)
            | etcd_client::Error::InvalidMetadataValue(_)
            | etcd_client::Error::EndpointError(_),
            _,
        ) => StoreError::refused(reason),
        _ => StoreError::Unknown { reason },
    }
}

fn of_status(call: Call, status: &tonic::Status, reason: String) -> StoreError {
    match (status.code(), call) {
        (Code::NotFound, Call::Write(Some(id)) | Call::KeepAlive(id)) => StoreError::LeaseNotFound { id },
        (Code::OutOfRange, _) if status.message().contains(COMPACTED) => {
            StoreError::Compacted { revision: Revision(0) }
        }
        (
            Code::OutOfRange
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented,
            _,
        ) => StoreError::Refused {
            kind: refusal_kind(status),
            reason,
        },
        (Code::Unknown, _) if rejection::is_token_error(status.message()) => StoreError::Refused {
            kind: RefusalKind::Authentication,
            reason,
        },
        _ if never_connected(status) => StoreError::Unreachable { reason },
        _ => StoreError::Unknown { reason },
    }
}

const COMPACTED: &str = "required revision has been compacted";

/// The kinds that only the message distinguishes: etcd's own (`rpctypes/error.go`), and the limits of grpc-go and
/// tonic.
const KINDS: [(&str, RefusalKind); 9] = [
    ("database space exceeded", RefusalKind::NoSpace),
    ("too many requests", RefusalKind::Overloaded),
    ("request is too large", RefusalKind::TooLarge),
    ("too many operations in txn request", RefusalKind::TooLarge),
    ("message larger than max", RefusalKind::TooLarge),
    ("message length too large", RefusalKind::TooLarge),
    ("future revision", RefusalKind::FutureRevision),
    ("user name is empty", RefusalKind::Authentication),
    ("authentication", RefusalKind::Authentication),
];

fn refusal_kind(status: &tonic::Status) -> RefusalKind {
    let message = status.message();
    match status.code() {
        Code::PermissionDenied => RefusalKind::Permission,
        Code::Unauthenticated => RefusalKind::Authentication,
        _ if rejection::is_token_error(message) => RefusalKind::Authentication,
        _ => KINDS
            .iter()
            .find(|(part, _)| message.contains(part))
            .map_or(RefusalKind::Other, |(_, kind)| *kind),
    }
}

/// Whether the call failed because the connection could not be established.
fn never_connected(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(call: Call, code: Code) -> StoreError {
        store_error(
            call,
            &etcd_client::Error::GRpcStatus(tonic::Status::new(code, "etcdserver: some words")),
        )
    }

    #[test]
    fn a_lost_answer_is_not_taken_for_a_call_that_never_ran() {
        for code in [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
            Code::Aborted,
        ] {
            let error = classify(Call::Write(None), code);
            assert!(
                matches!(error, StoreError::Unknown { .. }) && !error.never_ran(),
                "{code:?}: {error}"
            );
        }
    }

    #[test]
    fn no_connection_is_proof() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = tonic::Status::from_error(Box::new(ConnectError(refused.into())));
        let error = store_error(Call::Write(None), &etcd_client::Error::GRpcStatus(status));
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn a_missing_lease_is_told_from_other_missing_things() {
        let id = LeaseId::new(7).unwrap();
        for call in [Call::Write(Some(id)), Call::KeepAlive(id)] {
            assert!(matches!(classify(call, Code::NotFound), StoreError::LeaseNotFound { id: found } if found == id));
        }
        assert!(matches!(
            classify(Call::Write(None), Code::NotFound),
            StoreError::Refused { .. }
        ));
        let gone = etcd_client::Error::LeaseKeepAliveError("lease not found".into());
        assert!(matches!(
            store_error(Call::KeepAlive(id), &gone),
            StoreError::LeaseNotFound { .. }
        ));
    }

    #[test]
    fn refusals_and_compaction_have_their_own_names() {
        let error_of = |code, message: &str| {
            let status = tonic::Status::new(code, message);
            store_error(Call::Read, &etcd_client::Error::GRpcStatus(status))
        };
        let compacted = error_of(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        assert!(matches!(compacted, StoreError::Compacted { .. }), "{compacted}");
        for (code, message, kind) in [
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                RefusalKind::FutureRevision,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes",
                RefusalKind::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "grpc: trying to send message larger than max (9 vs. 8)",
                RefusalKind::TooLarge,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                RefusalKind::TooLarge,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
                RefusalKind::TooLarge,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                RefusalKind::NoSpace,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                RefusalKind::Overloaded,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                RefusalKind::Permission,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                RefusalKind::Authentication,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                RefusalKind::Authentication,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
                RefusalKind::Other,
            ),
        ] {
            let error = error_of(code, message);
            assert_eq!(error.refusal(), Some(kind), "{message}: {error}");
        }
        let old = etcd_client::Error::GRpcStatus(tonic::Status::unknown("auth: revision in header is old"));
        assert!(matches!(
            store_error(Call::Write(None), &old),
            StoreError::Refused { .. }
        ));
        for code in [
            Code::InvalidArgument,
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::ResourceExhausted,
        ] {
            assert!(
                matches!(classify(Call::Read, code), StoreError::Refused { .. }),
                "{code:?}"
            );
        }
    }
}
