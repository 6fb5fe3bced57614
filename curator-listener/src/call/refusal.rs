//! What a caller is told instead of an answer.
//!
//! Refusals come before anybody has asked who calls, so strangers read them. They say what the caller can do about it, which
//! node leads, and where: that much `CuratorLocal.GetCurrentLeader` tells anybody, by the contract, since a node that is about to
//! register knows nobody yet. They say nothing of the store, of files or keys, nor what the system or TLS has to say: that is
//! for the log.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::headers;
use crate::role::Leader;

/// When to try retry_after, for clients that do so by themselves. ReplayBody: gRFC A6, "Pushback".
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The content type of all answers.
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// So much is left of a message that is far too long, in bytes.
const MAX_MESSAGE_SIZE: usize = 4 << 10;

/// A call's end that no service made.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
    /// Where to turn, if that is known.
    pub(crate) leader: Option<Box<Leader>>,
    /// Nothing of the call ran: said to the instance that forwarded it, with the reason in a word.
    pub(crate) not_run: Option<&'static str>,
    /// When the caller may try retry_after, if that is to be said.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            leader: None,
            not_run: None,
            retry_after: None,
        }
    }

    pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// The call's own time is over.
    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "the call's deadline has passed")
    }

    /// The term that the call ran in has ended.
    pub(crate) fn term_ended() -> Self {
        Self::unavailable(
            "the term of this leader has ended while the call was under way; whether it took effect is not known",
        )
    }

    /// Knows who leads.
    #[must_use]
    pub(crate) fn with_leader(mut self, leader: Option<&Leader>) -> Self {
        self.leader = leader.cloned().map(Box::new);
        self
    }

    /// Says that nothing ran.
    #[must_use]
    pub(crate) const fn not_run(mut self, why: &'static str) -> Self {
        self.not_run = Some(why);
        self
    }

    /// Says when to try retry_after.
    #[must_use]
    pub(crate) const fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    fn status(&self) -> Status {
        let mut headers = HeaderMap::new();
        if let Some(leader) = &self.leader {
            headers::hint(&mut headers, leader);
        }
        if let Some(why) = self.not_run {
            headers::mark_not_run(&mut headers, why);
        }
        if let Some(after) = self.retry_after {
            headers.insert(
                PUSHBACK,
                HeaderValue::from(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            );
        }
        Status::with_metadata(self.code, self.message.clone(), MetadataMap::from_headers(headers))
    }

    /// As a whole answer.
    pub(crate) fn response<B: Default>(&self) -> http::Response<B> {
        self.status().into_http()
    }

    /// As the end of an answer that has begun.
    pub(crate) fn trailers(&self) -> HeaderMap {
        trailers(&self.status())
    }
}

/// A status as trailers.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // A message that no header can hold; the code is what counts.
        headers.clear();
        headers.insert(GRPC_STATUS, HeaderValue::from(i32::from(status.code())));
    }
    headers
}

/// Gives what tonic says of a message that is too long the code that gRPC has for it.
pub(crate) fn corrected(headers: &mut HeaderMap) {
    // The message is in words of its own, and encoded.
    const TOO_LONG: &[u8] = b"Error,%20decoded%20message%20length%20too%20large";
    let says = |name, beginning| {
        headers
            .get(name)
            .is_some_and(|value: &HeaderValue| value.as_bytes().starts_with(beginning))
    };
    if says(GRPC_STATUS, b"11") && says(GRPC_MESSAGE, TOO_LONG) {
        headers.insert(GRPC_STATUS, HeaderValue::from(i32::from(Code::ResourceExhausted)));
    }
}

/// What is left of a status whose headers are too long: the code and the beginning of the message. Of success nothing is left.
pub(crate) fn shortened(long: &HeaderMap) -> HeaderMap {
    let code = long.get(GRPC_STATUS).filter(|code| code.as_bytes() != b"0");
    let Some(code) = code else {
        return Refusal::new(Code::ResourceExhausted, "the answer has too much metadata").trailers();
    };
    let mut short = HeaderMap::new();
    short.insert(GRPC_STATUS, code.clone());
    if let Some(message) = long.get(GRPC_MESSAGE) {
        let message = message.as_bytes();
        let mut end = message.len().min(MAX_MESSAGE_SIZE);
        // Not within a byte that is percent-encoded.
        if let Some(percent) = message[end.saturating_sub(2)..end]
            .iter()
            .position(|byte| *byte == b'%')
        {
            end = end.saturating_sub(2) + percent;
        }
        if let Ok(message) = HeaderValue::from_bytes(&message[..end]) {
            short.insert(GRPC_MESSAGE, message);
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::TermId;

    #[test]
    fn of_a_status_that_is_too_long_the_beginning_is_left() {
        let status = Status::invalid_argument("\u{e4}".repeat(100_000));
        let short = shortened(&trailers(&status));
        assert_eq!(short["grpc-status"], "3");
        let message = short["grpc-message"].to_str().unwrap();
        assert!(
            message.len() > 4_000 && message.len() <= MAX_MESSAGE_SIZE,
            "{}",
            message.len()
        );
        assert!(
            message.ends_with("%A4") || message.ends_with("%C3"),
            "{}",
            &message[4_000..]
        );
        assert_eq!(shortened(&HeaderMap::new())["grpc-status"], "8");
    }

    #[test]
    fn a_refusal_says_when_to_come_again() {
        let refusal = Refusal::unavailable("no").retry_after(Duration::from_millis(700));
        assert_eq!(refusal.trailers()["grpc-retry-pushback-ms"], "700");
    }

    #[test]
    fn a_refusal_says_where_the_leader_is() {
        let leader = Leader {
            node_id: "node-2".into(),
            addresses: vec!["127.0.0.1:9".into()],
            authorizes_forwarded: true,
            term: TermId {
                lock_key: "/leader/1".into(),
                lock_revision: 7,
            },
        };
        let refusal = Refusal::unavailable("no")
            .with_leader(Some(&leader))
            .not_run("not-leader");
        let trailers = refusal.trailers();
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["curator-leader-id"], "node-2");
        assert_eq!(trailers["curator-leader-address"], "127.0.0.1:9");
        assert_eq!(trailers["curator-not-run"], "not-leader");
        let response = refusal.response::<String>();
        assert_eq!(response.headers()["curator-leader-id"], "node-2");
        assert_eq!(response.headers()["content-type"], "application/grpc");
    }
}
