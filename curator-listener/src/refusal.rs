//! What a caller is told instead of an answer.
//!
//! Refusals come before anybody has asked who calls, so strangers read them. They say what the caller can do about it, which
//! node leads, and where: that much `CuratorLocal.GetCurrentLeader` tells anybody, by the contract, since a node that is about to
//! register knows nobody yet. They say nothing of the store, of files or keys, nor what the system or TLS has to say: that is
//! for the log.

use std::borrow::Cow;

use http::HeaderMap;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::marks;
use crate::role::Leader;

/// A call's end that no service made.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
    /// Where to turn, if that is known.
    pub(crate) leader: Option<Box<Leader>>,
    /// Nothing of the call ran: said to the instance that forwarded it, with the reason in a word.
    pub(crate) not_run: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            leader: None,
            not_run: None,
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

    fn status(&self) -> Status {
        let mut headers = HeaderMap::new();
        if let Some(leader) = &self.leader {
            marks::hint(&mut headers, leader);
        }
        if let Some(why) = self.not_run {
            marks::mark_not_run(&mut headers, why);
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
        headers.insert("grpc-status", http::HeaderValue::from(i32::from(status.code())));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::TermId;

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
