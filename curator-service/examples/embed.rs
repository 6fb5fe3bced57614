//! The whole service in another process, with a leader's service of its own: `cargo run -p curator-service --example
//! embed`.
//!
//! It keeps its state in a directory, so that it runs alone; with `EtcdConsensus` in its place it is one of several
//! instances.

use std::sync::Arc;

use curator_echo::proto::echo_client::EchoClient;
use curator_echo::proto::{SayRequest, SayResponse};
use curator_service::{Config, EmbeddedConsensus, LeaderServices, Service, StateChange, TEST_CALLER, TestIdentity};
use tokio_util::sync::CancellationToken;
use tonic::Request;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("curator-embed-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let consensus = EmbeddedConsensus::open(&directory, "namespaced:curator".parse()?, "node-1")?;

    let mut config = Config::new("node-1", Arc::new(consensus));
    config.listen = vec!["127.0.0.1:17835".parse()?];
    // Accepts any caller that a header names: for tests only. In production, set `config.credentials`.
    config.authenticator = Some(Arc::new(TestIdentity));
    config.leader_services = LeaderServices::new()
        // The annotations in the descriptors say who may call which method.
        .describe(curator_echo::FILE_DESCRIPTOR_SET)?
        // Called at the beginning of each term of this process. The calls of a term end with it.
        .add_authorized(|term| Ok(counter::Counter(term.state("counter")?).into_server()))?;

    let service = Service::new(config)?;
    let mut status = service.status();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(service.run(cancel.clone()));
    status
        .wait_for(|status| matches!(status, curator_election::ElectionStatus::Leader(_)))
        .await?;

    let mut client = EchoClient::connect("http://127.0.0.1:17835").await?;
    let refused = client
        .say(SayRequest::default())
        .await
        .expect_err("a caller without a certificate");
    println!("refused: {}", refused.message());
    let mut call = Request::new(SayRequest::default());
    call.metadata_mut().insert(TEST_CALLER, "user owner".parse()?);
    println!("calls counted: {}", client.say(call).await?.into_inner().id);

    // A service would wait for a signal here.
    cancel.cancel();
    running.await??;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// Counts the calls of `Say`, in all terms.
mod counter {
    use curator_echo::proto::echo_server::{Echo, EchoServer};
    use curator_echo::proto::{CountRequest, SumResponse};
    use curator_service::{TermState, Written};
    use tonic::{Response, Status, Streaming};

    use super::{Request, SayRequest, SayResponse, StateChange};

    /// The state of the term that the service was made for: an access after that term fails and changes nothing.
    pub(super) struct Counter(pub(super) TermState);

    impl Counter {
        pub(super) fn into_server(self) -> EchoServer<Self> {
            EchoServer::new(self)
        }

        async fn add_one(&self) -> Result<u64, Box<dyn std::error::Error>> {
            loop {
                let known = self.0.get("calls").await?;
                let (calls, change) = match &known {
                    None => (1, StateChange::new().if_absent("calls")),
                    Some(entry) => {
                        let calls = std::str::from_utf8(&entry.value)?.parse::<u64>()? + 1;
                        (calls, StateChange::new().if_unchanged("calls", entry.revision))
                    }
                };
                // Another call was first: count again.
                if let Written::Done(_) = self.0.write(change.put("calls", calls.to_string())).await? {
                    return Ok(calls);
                }
            }
        }
    }

    type NoAnswers = tokio_stream::Empty<Result<SayResponse, Status>>;

    #[tonic::async_trait]
    impl Echo for Counter {
        type CountStream = NoAnswers;
        type ChatStream = NoAnswers;

        async fn say(&self, _: Request<SayRequest>) -> Result<Response<SayResponse>, Status> {
            let id = self
                .add_one()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(Response::new(SayResponse {
                id,
                ..SayResponse::default()
            }))
        }

        async fn count(&self, _: Request<CountRequest>) -> Result<Response<NoAnswers>, Status> {
            Err(Status::unimplemented("the example has Say only"))
        }

        async fn sum(&self, _: Request<Streaming<SayRequest>>) -> Result<Response<SumResponse>, Status> {
            Err(Status::unimplemented("the example has Say only"))
        }

        async fn chat(&self, _: Request<Streaming<SayRequest>>) -> Result<Response<NoAnswers>, Status> {
            Err(Status::unimplemented("the example has Say only"))
        }
    }
}
