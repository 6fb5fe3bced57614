//! Classifies how a stream to the leader failed: whether the call provably did not run.

use h2::{Error, Reason};
use tonic::Code;

use crate::call::refusal::Refusal;
use crate::failpoint;

/// Whether the leader provably did not process the call.
///
/// Source: RFC 9113, sections 6.8 and 8.7. h2 returns the error of a remote GOAWAY only for streams above the last
/// one that the peer reports as processed; the others go on.
pub(crate) fn is_provably_unprocessed(error: &Error) -> bool {
    if failpoint::on(failpoint::SENDS_LOST_CALL_AGAIN) {
        return true;
    }
    error.is_remote() && (error.is_go_away() || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)))
}

/// The refusal for a stream that ended without an answer.
pub(crate) fn to_refusal(error: &Error) -> Refusal {
    let unknown = "it is not known whether the call took effect";
    if error.is_reset() && error.is_remote() {
        return match error.reason() {
            Some(Reason::ENHANCE_YOUR_CALM) => Refusal::new(
                Code::ResourceExhausted,
                "the leader reset the call: too many resources used",
            ),
            reason => Refusal::unavailable(format!(
                "the leader reset the call ({}); {unknown}",
                reason.unwrap_or(Reason::INTERNAL_ERROR).description()
            )),
        };
    }
    // Never INTERNAL: the death of a leader is an ordinary fault.
    Refusal::unavailable(format!("the connection to the leader was lost; {unknown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_our_own_proves_nothing() {
        let local = Error::from(Reason::REFUSED_STREAM);
        assert!(!is_provably_unprocessed(&local));
        assert_eq!(to_refusal(&local).code, Code::Unavailable);
    }
}
