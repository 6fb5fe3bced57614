//! Refusals: gRPC statuses that the listener itself returns.
//!
//! A refusal may be returned before the caller is authenticated, so strangers can read it. It says what the caller
//! can do, which node leads, and its address. That much `CuratorLocal.GetCurrentLeader` reports to everybody, because
//! a node that is about to register has no identity yet. A refusal contains nothing about the store, files or keys,
//! and no error of the system or of TLS; those go to the log.

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::headers;
use crate::role::Leader;

/// When the client may retry, for clients with automatic retries. Source: gRFC A6, "Pushback".
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The content type of all answers.
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// The maximum length of a message that had to be truncated, in bytes.
const MAX_MESSAGE_SIZE: usize = 4 << 10;

/// Why calls end when the listener stops.
pub(crate) const STOPPING: &str = "this instance is stopping";

/// A status that ends a call and that no service returned.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
    /// The leader, if known: where the caller can turn.
    pub(crate) leader: Option<Box<Leader>>,
    /// Nothing of the call ran. The value is the reason, sent to the instance that forwarded the call.
    pub(crate) not_run: Option<&'static str>,
    /// When the caller may retry, if that is reported.
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

    /// The deadline of the call has passed.
    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "the deadline of the call has passed")
    }

    /// The term that the call ran in has ended.
    pub(crate) fn term_ended() -> Self {
        Self::unavailable("the term of this leader ended during the call; it is not known whether the call took effect")
    }

    /// Adds the leader.
    #[must_use]
    pub(crate) fn with_leader(mut self, leader: Option<&Leader>) -> Self {
        self.leader = leader.cloned().map(Box::new);
        self
    }

    /// Adds that nothing ran, and the reason.
    #[must_use]
    pub(crate) const fn not_run(mut self, why: &'static str) -> Self {
        self.not_run = Some(why);
        self
    }

    /// Adds when to retry.
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

    /// The refusal as a whole response.
    pub(crate) fn response<B: Default>(&self) -> http::Response<B> {
        self.status().into_http()
    }

    /// The refusal as trailers of a response that has begun.
    pub(crate) fn trailers(&self) -> HeaderMap {
        trailers(&self.status())
    }
}

/// A status as trailers.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // The message does not fit into a header; the code is enough.
        headers.clear();
        headers.insert(GRPC_STATUS, HeaderValue::from(i32::from(status.code())));
    }
    headers
}

/// Replaces the code that tonic uses for a message above the size limit (OUT_OF_RANGE) by the one that gRPC specifies
/// (RESOURCE_EXHAUSTED).
pub(crate) fn corrected(headers: &mut HeaderMap) {
    // tonic's message, percent-encoded.
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

/// Truncates a status whose headers are too long: keeps the code and the beginning of the message. A success becomes
/// an error.
pub(crate) fn shortened(long: &HeaderMap) -> HeaderMap {
    let code = long.get(GRPC_STATUS).filter(|code| code.as_bytes() != b"0");
    let Some(code) = code else {
        return Refusal::new(Code::ResourceExhausted, "the metadata of the answer is too large").trailers();
    };
    let mut short = HeaderMap::new();
    short.insert(GRPC_STATUS, code.clone());
    if let Some(message) = long.get(GRPC_MESSAGE) {
        let message = message.as_bytes();
        let mut end = message.len().min(MAX_MESSAGE_SIZE);
        // Do not cut within a percent-encoded byte.
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
