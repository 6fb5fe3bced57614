//! The listener in front of an ordinary tonic service, with a role that is said on the command line.
//!
//! ```console
//! $ cargo run -p curator-listener --example front -- --listen 127.0.0.1:7001 --lead
//! $ cargo run -p curator-listener --example front -- --listen 127.0.0.1:7002 --follow 127.0.0.1:7001
//! ```
//!
//! Both answer the `Echo` service, with a method of each kind; the second by asking the first.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use curator_echo::EchoService;
use curator_listener::{
    Leader, Listener, ListenerConfig, Role, Services, SharedGuard, StaticStatus, TermGuard, TermId,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

const USAGE: &str = "usage: front --listen ADDRESS... (--lead | --follow ADDRESS)";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (addresses, role) = arguments()?;
    let mut config = ListenerConfig::default();
    config.threads = std::thread::available_parallelism()?.get();
    let listener = Listener::bind(addresses, config)?;
    let name = listener
        .addresses()
        .first()
        .map_or_else(String::new, ToString::to_string);
    for address in listener.addresses() {
        println!("listening on {address}");
    }

    let services =
        Services::new(move |term| Routes::new(EchoService::new(name.clone(), term.term.lock_revision).into_server()))
            .describe(curator_echo::FILE_DESCRIPTOR_SET)?;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(listener.run(StaticStatus::new(role), services, cancel.clone()));
    tokio::signal::ctrl_c().await?;
    cancel.cancel();
    running.await??;
    Ok(())
}

fn arguments() -> Result<(Vec<SocketAddr>, Role), Box<dyn std::error::Error>> {
    let mut addresses = Vec::new();
    let mut role = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--listen" => addresses.push(words.next().ok_or(USAGE)?.parse()?),
            "--lead" => {
                role = Some(Role::Local {
                    term: term(),
                    guard: SharedGuard(Arc::new(Forever)),
                });
            }
            "--follow" => {
                role = Some(Role::Remote(Leader {
                    node_id: "the-leader".into(),
                    addresses: vec![words.next().ok_or(USAGE)?],
                    term: term(),
                }));
            }
            _ => return Err(USAGE.into()),
        }
    }
    Ok((addresses, role.ok_or(USAGE)?))
}

/// There is no election here: one term, known to all.
fn term() -> TermId {
    TermId {
        lock_key: "/leader/1".into(),
        lock_revision: 1,
    }
}

/// A term that does not end.
struct Forever;

#[async_trait]
impl TermGuard for Forever {
    fn is_valid(&self) -> bool {
        true
    }

    fn remaining(&self) -> Duration {
        Duration::MAX
    }

    async fn ended(&self) {
        std::future::pending::<()>().await;
    }
}
