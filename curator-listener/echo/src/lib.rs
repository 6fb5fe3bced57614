//! A gRPC service with a method of each kind, for the listener's example, tests and benchmarks.
//!
//! It is independent of the listener: its creator sets the term and the recording of answers.

pub mod tls;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

/// The generated messages and service.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::use_self, reason = "generated")]
pub mod proto {
    tonic::include_proto!("curator.echo.v1");
}

use proto::echo_server::{Echo, EchoServer};
use proto::{CountRequest, SayRequest, SayResponse, SumResponse};

/// The encoded descriptors of the service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Called with the id of each `Say` before it is answered.
pub type Record = Arc<dyn Fn(u64) + Send + Sync>;

/// The service of one node in one term.
#[derive(Clone)]
pub struct EchoService {
    node: String,
    term: i64,
    record: Option<Record>,
}

impl EchoService {
    /// Creates the service of a node in a term.
    pub fn new(node: impl Into<String>, term: i64) -> Self {
        Self {
            node: node.into(),
            term,
            record: None,
        }
    }

    /// Calls `record` for each `Say`.
    #[must_use]
    pub fn recording(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }

    /// A tonic server that accepts messages of up to 64 MiB.
    #[must_use]
    pub fn into_server(self) -> EchoServer<Self> {
        EchoServer::new(self)
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    async fn say(&self, request: SayRequest) -> Result<SayResponse, Status> {
        if request.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
        }
        if request.fail_with > 0 {
            let code = Code::from(i32::try_from(request.fail_with).unwrap_or(2));
            return Err(Status::with_details(code, "as asked", Bytes::from_static(b"\x08\x01")));
        }
        Ok(SayResponse {
            id: request.id,
            payload: request.payload,
            node: self.node.clone(),
            term: self.term,
        })
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<SayResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for EchoService {
    type CountStream = Answers;
    type ChatStream = Answers;

    /// Copies the metadata of the request with names that begin with `x-` to the answer.
    async fn say(&self, request: Request<SayRequest>) -> Result<Response<SayResponse>, Status> {
        if let Some(record) = &self.record {
            record(request.get_ref().id);
        }
        let (metadata, _, message) = request.into_parts();
        let mut response = Response::new(self.say(message).await?);
        let sent = metadata.into_headers();
        let headers: &mut tonic::metadata::MetadataMap = response.metadata_mut();
        let mut back = headers.clone().into_headers();
        for (name, value) in sent.iter().filter(|(name, _)| name.as_str().starts_with("x-")) {
            back.append(name, value.clone());
        }
        *headers = tonic::metadata::MetadataMap::from_headers(back);
        Ok(response)
    }

    async fn count(&self, request: Request<CountRequest>) -> Result<Response<Answers>, Status> {
        let CountRequest {
            messages,
            size,
            pause_us,
        } = request.into_inner();
        let payload = Bytes::from(vec![7; usize::try_from(size.min(32 << 20)).unwrap_or_default()]);
        let messages = if messages == 0 { u64::MAX } else { messages };
        let this = self.clone();
        let stream = futures::stream::iter(0..messages).then(move |id| {
            let message = SayResponse {
                id,
                payload: payload.clone(),
                node: this.node.clone(),
                term: this.term,
            };
            async move {
                if pause_us > 0 {
                    tokio::time::sleep(Duration::from_micros(pause_us.into())).await;
                }
                Ok(message)
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn sum(&self, request: Request<Streaming<SayRequest>>) -> Result<Response<SumResponse>, Status> {
        let mut sum = SumResponse::default();
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            self.say(SayRequest {
                payload: Bytes::new(),
                ..message.clone()
            })
            .await?;
            sum.messages += 1;
            sum.bytes += message.payload.len() as u64;
        }
        Ok(Response::new(sum))
    }

    async fn chat(&self, request: Request<Streaming<SayRequest>>) -> Result<Response<Answers>, Status> {
        let this = self.clone();
        let answers = request.into_inner().then(move |message| {
            let this = this.clone();
            async move { this.say(message?).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
