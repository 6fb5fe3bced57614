//! A client of the API: finds the leader, is asked to come later, and comes later. It links no server of the Curator;
//! the instance here is a stand-in.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use curator_client::{Attempt, Client, Security};
use curator_proto::curator_api::curator_local_client::CuratorLocalClient;
use curator_proto::curator_api::curator_local_server::{CuratorLocal, CuratorLocalServer};
use curator_proto::curator_api::{
    GetCaCertificateRequest, GetCaCertificateResponse, GetCurrentLeaderRequest, GetCurrentLeaderResponse,
};
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

/// An instance that leads, and refuses its first calls.
struct Instance {
    port: i32,
    refuses: AtomicU32,
    calls: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl CuratorLocal for Instance {
    type GetCurrentLeaderStream = Pin<Box<dyn Stream<Item = Result<GetCurrentLeaderResponse, Status>> + Send>>;

    async fn get_current_leader(
        &self,
        _: Request<GetCurrentLeaderRequest>,
    ) -> Result<Response<Self::GetCurrentLeaderStream>, Status> {
        let leader = GetCurrentLeaderResponse {
            leader_node_id: "node-1".into(),
            leader_host: "127.0.0.1".into(),
            leader_port: self.port,
            this_node_id: "node-1".into(),
        };
        let now = futures::stream::iter([Ok(leader)]);
        Ok(Response::new(Box::pin(now.chain(futures::stream::pending()))))
    }

    async fn get_ca_certificate(
        &self,
        _: Request<GetCaCertificateRequest>,
    ) -> Result<Response<GetCaCertificateResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.refuses.load(Ordering::SeqCst) {
            0 => Ok(Response::new(GetCaCertificateResponse::default())),
            left => {
                self.refuses.store(left - 1, Ordering::SeqCst);
                let mut status = Status::resource_exhausted("at its limits");
                status.metadata_mut().insert("grpc-retry-pushback-ms", 20.into());
                Err(status)
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    let (address, calls) = (socket.local_addr()?, Arc::<AtomicU32>::default());
    let instance = Instance {
        port: address.port().into(),
        refuses: AtomicU32::new(2),
        calls: calls.clone(),
    };
    let server = Server::builder().add_service(CuratorLocalServer::new(instance));
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(socket)));

    // The first address is of nobody.
    let unused = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let client = Client::new([unused.to_string(), address.to_string()], Security::PlaintextOnLoopback)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let ask = async |attempt: Attempt| {
        let mut local = CuratorLocalClient::new(attempt.channel());
        local
            .get_ca_certificate(attempt.request(GetCaCertificateRequest {}))
            .await
    };
    client.call(deadline, ask).await?;
    assert_eq!(calls.load(Ordering::SeqCst), 3, "refused twice");
    assert_eq!(client.leader_changes().next().await.node_id, "node-1");

    // What may have run is not sent again.
    let mut sent = 0;
    let lost = client.call(deadline, async |_| {
        sent += 1;
        Err::<(), _>(Status::unavailable("the connection was lost"))
    });
    let error = lost.await.expect_err("an error");
    assert_eq!(error.status().map(Status::code), Some(Code::Unavailable));
    assert!(!error.is_provably_not_run());
    assert_eq!(sent, 1);
    serving.abort();
    println!("api-client: one answer after two refusals");
    Ok(())
}
