//! What etcd, or TLS on the way to it, says when it does not let us in, and what to do about it.
//!
//! etcd tells an old token in several ways: with a code of its own; with that of bad arguments, when users or roles were changed
//! since a token of the kind JWT was made; without any code, in 3.4; and for a watch as a text, which in 3.4 is the same as that
//! of a user who may not.

use std::error::Error as _;

use tonic::{Code, Status};

use crate::StoreError;

const NO_PERMISSION: &str = "permission denied";
const NO_USER: &str = "user name is empty";
const WRONG_PASSWORD: &str = "authentication failed";
const NOT_ENABLED: &str = "authentication is not enabled";
/// The revision of users and roles that a token is of, in the words of the API and of the store behind it.
const OLD: [&str; 2] = ["revision of auth store is old", "revision in header is old"];
const INVALID: &str = "invalid auth token";

/// Whether etcd has refused a call of a user because of its token, and would take it with a new one.
pub(in crate::etcd) fn needs_new_token(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    match status.code() {
        Code::Unauthenticated => true,
        // Or it has none, from when etcd had authentication disabled.
        Code::InvalidArgument | Code::Unknown => is_token_error(status.message()) || status.message().contains(NO_USER),
        _ => false,
    }
}

/// Whether etcd has refused to give a token, since it asks for none.
pub(in crate::etcd) fn auth_is_disabled(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains(NOT_ENABLED))
}

/// Whether an error of no known code is one of these refusals.
pub(in crate::etcd) fn is_token_error(said: &str) -> bool {
    said.contains(INVALID) || OLD.iter().any(|old| said.contains(old))
}

/// A watch that was not let in, as the refusal that it is.
pub(in crate::etcd) fn watch_rejection(said: &str) -> Option<Status> {
    let denied = said.contains(NO_PERMISSION) || said.contains(NO_USER) || is_token_error(said);
    denied.then(|| Status::unauthenticated(said))
}

/// What to tell of an error.
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

/// Of a connection with TLS that was closed: etcd does not always get to say that it is for want of a certificate.
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
    let explain = |reason: String| match closed(&reason) {
        true => format!(
            "the connection was closed: etcd is ending, or it asks for a client certificate and gets none that it knows ({reason})"
        ),
        false => reason,
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
            "etcd does not permit this to its user: grant the user a role with readwrite on all keys that are used",
        ),
        (
            NO_USER,
            "etcd asks for a user: give one and its password, or a client certificate whose common name is one",
        ),
        (
            "database space exceeded",
            "etcd is out of space (NOSPACE): compact and defragment it or raise --quota-backend-bytes, then run `etcdctl alarm disarm`",
        ),
        (
            "too many requests",
            "etcd is overloaded: look at its disk and at who else uses it",
        ),
        (WRONG_PASSWORD, "etcd does not take the user and password"),
        (INVALID, "etcd does not take the token that it gave"),
        (
            "invalid peer certificate",
            "etcd's certificate is not one for this endpoint from the authority that was given",
        ),
        (
            "received fatal alert",
            "etcd ends the TLS handshake: it asks for a client certificate, or does not take the one given",
        ),
        (
            "received corrupt message",
            "the endpoint is https, and what listens there speaks no TLS",
        ),
    ];
    hints
        .iter()
        .find(|(part, _)| said.contains(part))
        .map(|(_, hint)| *hint)
}

/// What a status says, and what its sources add to that.
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
            text.contains("asks for a client certificate") && text.contains("CertificateRequired"),
            "{text}"
        );
        let text = describe(&error(Code::PermissionDenied, "etcdserver: permission denied"));
        assert!(text.contains("grant the user a role"), "{text}");
    }
}
