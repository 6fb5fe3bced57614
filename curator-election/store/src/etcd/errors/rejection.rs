//! Rejections by etcd, or by TLS in front of it: how to recognize them, and hints for the operator.
//!
//! etcd reports an outdated token in several ways: with a code of its own; as an invalid argument, if users or roles
//! have changed since a JWT token was issued; without a code, in 3.4; and for a watch as a text, which in 3.4 is the
//! same as for a missing permission.

use std::error::Error as _;

use tonic::{Code, Status};

use crate::StoreError;

const NO_PERMISSION: &str = "permission denied";
const NO_USER: &str = "user name is empty";
const WRONG_PASSWORD: &str = "authentication failed";
const NOT_ENABLED: &str = "authentication is not enabled";
/// The auth revision of a token is outdated: the messages of the API and of the store behind it.
const OLD: [&str; 2] = ["revision of auth store is old", "revision in header is old"];
const INVALID: &str = "invalid auth token";

/// Whether etcd rejected the call for its token, so that a new token helps.
pub(in crate::etcd) fn needs_new_token(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    match status.code() {
        Code::Unauthenticated => true,
        // Or the client has no token: authentication was disabled when it connected.
        Code::InvalidArgument | Code::Unknown => is_token_error(status.message()) || status.message().contains(NO_USER),
        _ => false,
    }
}

/// Whether etcd issued no token because authentication is disabled.
pub(in crate::etcd) fn auth_is_disabled(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains(NOT_ENABLED))
}

/// Whether the message, of an error without a known code, is about the token.
pub(in crate::etcd) fn is_token_error(said: &str) -> bool {
    said.contains(INVALID) || OLD.iter().any(|old| said.contains(old))
}

/// The rejection behind a cancelled watch, if it was rejected.
pub(in crate::etcd) fn watch_rejection(said: &str) -> Option<Status> {
    let denied = said.contains(NO_PERMISSION) || said.contains(NO_USER) || is_token_error(said);
    denied.then(|| Status::unauthenticated(said))
}

/// The message of an error, with a hint for the operator.
pub(in crate::etcd) fn describe(error: &etcd_client::Error) -> String {
    let said = match error {
        etcd_client::Error::GRpcStatus(status) => chain(status),
        error => error.to_string(),
    };
    match hint(&said) {
        Some(hint) => format!("{hint} ({said})"),
        None => said,
    }
}

/// Adds a hint to the error of a closed TLS connection: etcd cannot always report that the client certificate is
/// missing.
pub(in crate::etcd) fn add_tls_hint(error: StoreError) -> StoreError {
    let closed = |reason: &str| {
        [
            "broken pipe",
            "reset by peer",
            "unexpected end of file",
            "connection closed",
        ]
        .iter()
        .any(|part| reason.to_lowercase().contains(part))
    };
    let explain = |reason: String| {
        if closed(&reason) {
            format!(
                "connection closed: etcd is shutting down, or it requires a client certificate of its CA ({reason})"
            )
        } else {
            reason
        }
    };
    match error {
        StoreError::Unreachable { reason } => StoreError::Unreachable {
            reason: explain(reason),
        },
        StoreError::Unknown { reason } => StoreError::Unknown {
            reason: explain(reason),
        },
        error => error,
    }
}

fn hint(said: &str) -> Option<&'static str> {
    let hints = [
        (
            NO_PERMISSION,
            "etcd denied permission to its user: grant the user a role with readwrite on all key prefixes in use",
        ),
        (
            NO_USER,
            "etcd requires a user: configure a user and password, or a client certificate whose common name is a user",
        ),
        (
            "database space exceeded",
            "etcd is out of space (NOSPACE): compact and defragment it, or raise --quota-backend-bytes; then run \
             `etcdctl alarm disarm`",
        ),
        (
            "too many requests",
            "etcd is overloaded: check its disk latency and its other clients",
        ),
        (WRONG_PASSWORD, "etcd rejected the user and password"),
        (INVALID, "etcd rejected the auth token that it issued"),
        (
            "invalid peer certificate",
            "etcd's certificate is not valid for this endpoint, or is not issued by the configured CA",
        ),
        (
            "received fatal alert",
            "etcd aborted the TLS handshake: it requires a client certificate, or rejected the configured one",
        ),
        (
            "received corrupt message",
            "the endpoint is https, but the server there does not speak TLS",
        ),
    ];
    hints
        .iter()
        .find(|(part, _)| said.contains(part))
        .map(|(_, hint)| *hint)
}

/// The message of a status and those of its sources.
fn chain(status: &Status) -> String {
    let mut said = match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    };
    let mut source = status.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !said.contains(&more) {
            said.push_str(": ");
            said.push_str(&more);
        }
        source = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Code, message: &str) -> etcd_client::Error {
        etcd_client::Error::GRpcStatus(Status::new(code, message))
    }

    #[test]
    fn old_tokens_are_told_from_other_refusals() {
        for (code, message) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::Unknown, "auth: revision in header is old"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
        ] {
            assert!(needs_new_token(&error(code, message)), "{message}");
        }
        for (code, message) in [
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            (Code::Unavailable, "etcdserver: no leader"),
        ] {
            assert!(!needs_new_token(&error(code, message)), "{message}");
        }
    }

    #[test]
    fn a_watch_that_was_not_let_in_is_told_from_one_that_was_compacted() {
        let denied = watch_rejection("rpc error: code = PermissionDenied desc = etcdserver: permission denied");
        assert!(needs_new_token(&etcd_client::Error::GRpcStatus(denied.unwrap())));
        assert!(watch_rejection("etcdserver: mvcc: required revision has been compacted").is_none());
    }

    #[test]
    fn causes_are_told_with_what_to_do() {
        let alert = std::io::Error::other("received fatal alert: CertificateRequired");
        let status = Status::from_error(Box::new(alert));
        let text = describe(&etcd_client::Error::GRpcStatus(status));
        assert!(
            text.contains("requires a client certificate") && text.contains("CertificateRequired"),
            "{text}"
        );
        let text = describe(&error(Code::PermissionDenied, "etcdserver: permission denied"));
        assert!(text.contains("grant the user a role"), "{text}");
    }
}
