//! Errors of commands: what happened, where, what to try next, and the exit code.

use std::fmt;
use std::process::ExitCode;

use curator_client::connection_error;
use curator_identity::{CredentialsError, NO_PROOF};
use tonic::{Code, Status};

/// The exit codes, as listed in `curatorctl --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Unavailable = 4,
    NotAllowed = 5,
}

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    at: Option<String>,
    hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            at: None,
            hint: None,
        }
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, what)
    }

    pub(crate) fn unavailable(what: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, what)
    }

    /// Where it happened: an address or a path.
    #[must_use]
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.at = Some(place.into());
        self
    }

    /// What to try next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }

    /// Combines the failures of several instances; `None` if there are none. The first one sets the exit code.
    pub(crate) fn several(mut failures: Vec<Self>, of: usize) -> Option<Self> {
        if failures.len() < 2 {
            return failures.pop();
        }
        let each: Vec<_> = failures.iter().map(ToString::to_string).collect();
        let what = format!("{} of {of} instances failed:\n{}", failures.len(), each.join("\n"));
        failures.first().map(|first| Self::new(first.exit, what))
    }

    /// A call that failed at an address.
    pub(crate) fn of_status(status: &Status, address: &str) -> Self {
        let own = |exit| Self::new(exit, message(status)).at(address);
        let late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
        if let (false, Some(reason)) = (late, connection_error(status)) {
            let failure = Self::unavailable(format!("no connection: {reason}")).at(address);
            if reason.contains(NO_PROOF) {
                return failure.hint(
                    "check that this is the address of an instance; an instance can prove it shortly after its start. If the Go \
                     Curator or an earlier release leads the cluster, give --member or --any-node",
                );
            }
            return failure.hint(
                "check that the instance runs and that --ca is the CA of its cluster; give further instances with --endpoint",
            );
        }
        match status.code() {
            Code::NotFound => own(Exit::NotFound),
            Code::InvalidArgument => own(Exit::Usage),
            Code::Unauthenticated => own(Exit::NotAllowed)
                .hint("give a client certificate with --cert and --key; `curatorctl cert owner` fetches the owner's"),
            Code::PermissionDenied => {
                own(Exit::NotAllowed).hint("this needs the certificate of a user, such as the owner")
            }
            Code::Unavailable => {
                own(Exit::Unavailable).hint("retry; `curatorctl status` shows whether there is a leader")
            }
            Code::DeadlineExceeded | Code::Cancelled => Self::unavailable("timed out")
                .at(address)
                .hint("the request may have taken effect; allow more time with --timeout"),
            Code::Unimplemented => {
                own(Exit::Failed).hint("the instance may run an older version, or may not be a Curator")
            }
            _ => own(Exit::Failed),
        }
    }
}

/// The message of a status, or the description of its code.
fn message(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

impl From<CredentialsError> for Failure {
    fn from(error: CredentialsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(at) = &self.at {
            write!(f, "\n   at: {at}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  try: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_where_and_what_to_try() {
        let failure = Failure::of_status(&Status::unavailable("who leads is not known"), "127.0.0.1:7835");
        assert_eq!(
            failure.to_string(),
            "error: who leads is not known\n   at: 127.0.0.1:7835\n  try: retry; `curatorctl status` shows whether there is a \
             leader"
        );
        let bare = Failure::of_status(&Status::new(Code::Internal, ""), "a:1").to_string();
        assert_eq!(bare, "error: Internal error\n   at: a:1");
    }

    #[test]
    fn several_are_told_together() {
        let at = |address: &str| Failure::unavailable("gone").at(address);
        assert_eq!(Failure::several(Vec::new(), 3), None);
        assert_eq!(Failure::several(vec![at("a:1")], 3), Some(at("a:1")));
        let two = Failure::several(vec![at("a:1"), at("b:1")], 3).expect("two");
        assert_eq!(two.exit, Exit::Unavailable);
        let text = two.to_string();
        assert!(
            text.starts_with("error: 2 of 3 instances failed:\n") && text.contains("at: b:1"),
            "{text}"
        );
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        for (code, exit) in [
            (Code::NotFound, Exit::NotFound),
            (Code::InvalidArgument, Exit::Usage),
            (Code::Unauthenticated, Exit::NotAllowed),
            (Code::PermissionDenied, Exit::NotAllowed),
            (Code::Unavailable, Exit::Unavailable),
            (Code::DeadlineExceeded, Exit::Unavailable),
            (Code::FailedPrecondition, Exit::Failed),
            (Code::Aborted, Exit::Failed),
        ] {
            assert_eq!(
                Failure::of_status(&Status::new(code, "x"), "a:1").exit,
                exit,
                "{code:?}"
            );
        }
    }
}
