//! The whole service in another process, with a leader's service of its own: `cargo run -p curator-service --example
//! embed`.
//!
//! It keeps its state in a directory, so that it runs alone; with `EtcdConsensus` in its place it is one of several
//! instances.

use std::sync::Arc;

use curator_echo::EchoService;
use curator_service::{Config, EmbeddedConsensus, Service, TestIdentity};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("curator-embed-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let consensus = EmbeddedConsensus::open(&directory, "namespaced:curator".parse()?, "node-1")?;

    let mut config = Config::new("node-1", Arc::new(consensus));
    config.listen = vec!["127.0.0.1:0".parse()?];
    // Believes callers what they say: for tests alone. In its place: `config.credentials`.
    config.authenticator = Some(Arc::new(TestIdentity));
    // Called in each term that this process leads in. The calls of a term end with it.
    config.leader_services = Arc::new(|term, routes| {
        routes.add_service(EchoService::new("node-1".to_owned(), term.term.lock_revision).into_server())
    });

    let service = Service::new(config)?;
    let mut status = service.status();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(service.run(cancel.clone()));
    let leading = status
        .wait_for(|status| matches!(status, curator_election::ElectionStatus::Leader(_)))
        .await?;
    println!("{leading:?}");
    drop(leading);

    // A service would wait for a signal here.
    cancel.cancel();
    running.await??;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
