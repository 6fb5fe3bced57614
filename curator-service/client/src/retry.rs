//! The proofs that a call did not run.

use std::error::Error;
use std::time::Duration;

use curator_identity::retry_delay;
use h2::Reason;
use tonic::{ConnectError, Status};

/// Why a call that failed provably did not run, so that it may be sent again whatever it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotRun {
    /// The instance refused it before any of it ran, and said when to retry (`grpc-retry-pushback-ms`).
    Refused {
        /// The delay, with jitter.
        after: Duration,
    },
    /// No connection to the instance could be made, so the call was never sent.
    NotConnected,
    /// The instance reset the stream with `REFUSED_STREAM`, or closed the connection with a GOAWAY that names an
    /// earlier stream as the last one (RFC 9113, sections 6.8 and 8.7).
    NotProcessed,
}

impl NotRun {
    /// The proof that the call with this status did not run; `None` if it may have run.
    #[must_use]
    pub fn proof(status: &Status) -> Option<Self> {
        if let Some(after) = retry_delay(status) {
            return Some(Self::Refused { after });
        }
        causes(status).find_map(|cause| {
            if cause.is::<ConnectError>() {
                return Some(Self::NotConnected);
            }
            // h2 returns the error of a remote GOAWAY only for streams above the last one that the peer has processed.
            let error = cause.downcast_ref::<h2::Error>()?;
            let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
            (error.is_remote() && (error.is_go_away() || is_refused)).then_some(Self::NotProcessed)
        })
    }
}

/// Why the connection failed, if the status has a local cause: a status that an instance sent has none.
#[must_use]
pub fn connection_error(status: &Status) -> Option<String> {
    causes(status).last().map(ToString::to_string)
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = status.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proof_counts() {
        let from = |error: h2::Error| NotRun::proof(&Status::from_error(Box::new(error)));
        // Errors of this side prove nothing.
        assert_eq!(from(Reason::REFUSED_STREAM.into()), None);
        assert_eq!(NotRun::proof(&Status::unavailable("the leader is not known")), None);
        let never = ConnectError(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
        let status = Status::from_error(Box::new(never));
        assert_eq!(NotRun::proof(&status), Some(NotRun::NotConnected));
        assert_eq!(connection_error(&status).as_deref(), Some("connection refused"));
        let lost = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert_eq!(NotRun::proof(&lost), None);
    }
}
