//! The whole service within another program, and a client that finds it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use curator_client::{Client, Security};
use curator_election::ElectionStatus;
use curator_service::{Config, EmbeddedConsensus, Service};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("outside-embedder-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let consensus = EmbeddedConsensus::open(&directory, "namespaced:curator".parse()?, "node-1")?;
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut config = Config::new("node-1", Arc::new(consensus));
    config.listen = vec![free];

    let service = Service::new(config)?;
    let mut status = service.status();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(service.run(cancel.clone()));
    status
        .wait_for(|status| matches!(status, ElectionStatus::Leader(_)))
        .await?;

    let client = Client::new([free.to_string()], Security::PlaintextOnLoopback)?;
    let leader = client.leader_changes().next().await;
    assert_eq!(leader.node_id, "node-1");
    let instance = client.leader(Instant::now() + Duration::from_secs(20)).await?;
    assert_eq!(instance.address(), free.to_string());

    cancel.cancel();
    running.await??;
    std::fs::remove_dir_all(directory)?;
    println!("embedder: a client has found the service in this process");
    Ok(())
}
