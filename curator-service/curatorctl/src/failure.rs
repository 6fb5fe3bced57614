//! What is told when something did not work: what, where, and what to try; and the exit code.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use curator_identity::{CredentialsError, NO_PROOF};
use tonic::{Code, Status};

/// The exit codes. `curatorctl --help` says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Unavailable = 4,
    NotAllowed = 5,
}

/// Why a command ended without having done what it was to do.
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

    /// Where it was.
    #[must_use]
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.at = Some(place.into());
        self
    }

    /// What to try.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }

    /// All that went wrong at some out of so many instances; `None` if nothing did. The exit code is the first one's.
    pub(crate) fn several(mut failures: Vec<Self>, of: usize) -> Option<Self> {
        if failures.len() < 2 {
            return failures.pop();
        }
        let each: Vec<_> = failures.iter().map(ToString::to_string).collect();
        let what = format!("{} of {of} instances:\n{}", failures.len(), each.join("\n"));
        failures.first().map(|first| Self::new(first.exit, what))
    }

    /// A call that was refused, or came to nothing, at an address.
    pub(crate) fn of_status(status: &Status, address: &str) -> Self {
        let own = |exit| Self::new(exit, said(status)).at(address);
        let late = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
        if let (false, Some(reason)) = (late, transport(status)) {
            let failure = Self::unavailable(format!("no connection: {reason}")).at(address);
            if reason.contains(NO_PROOF) {
                return failure.hint(
                    "call an instance, which proves it a moment after its start; if the original leads the cluster, or an earlier release: \
                     name the members with --member, or take any node with --any-node",
                );
            }
            return failure.hint(
                "see whether the instance runs, and whether --ca is that of its cluster; or name more with --endpoint",
            );
        }
        match status.code() {
            Code::NotFound => own(Exit::NotFound),
            Code::InvalidArgument => own(Exit::Usage),
            Code::Unauthenticated => own(Exit::NotAllowed).hint(
                "show a certificate of the cluster with --cert and --key; `curatorctl cert owner` gets the owner's",
            ),
            Code::PermissionDenied => {
                own(Exit::NotAllowed).hint("only users may manage the cluster, with their certificate")
            }
            Code::Unavailable => {
                own(Exit::Unavailable).hint("`curatorctl status` shows who leads; if it takes a moment, try again")
            }
            Code::DeadlineExceeded | Code::Cancelled => Self::unavailable("no answer in time")
                .at(address)
                .hint("give it longer with --timeout; whether it took effect is not known"),
            Code::Unimplemented => own(Exit::Failed).hint("the instance may be of an older version, or not a Curator"),
            _ => own(Exit::Failed),
        }
    }
}

/// What the server says, without a wall around it.
fn said(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

/// Why there was no connection, if that is what it was: a status that came from a server has no cause on this side.
pub(crate) fn transport(status: &Status) -> Option<String> {
    let mut deepest: &(dyn Error + 'static) = status.source()?;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    Some(deepest.to_string())
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
            "error: who leads is not known\n   at: 127.0.0.1:7835\n  try: `curatorctl status` shows who leads; if it takes a moment, \
             try again"
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
            text.starts_with("error: 2 of 3 instances:\n") && text.contains("at: b:1"),
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
