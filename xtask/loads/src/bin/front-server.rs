//! The listener in front of an ordinary tonic service, with a role that is said on the command line.
//!
//! ```console
//! $ cargo run -p curator-loads --bin front-server -- --listen 127.0.0.1:7001 --lead
//! $ cargo run -p curator-loads --bin front-server -- --listen 127.0.0.1:7002 --follow 127.0.0.1:7001
//! ```
//!
//! Both answer the `Echo` service, with a method of each kind; the second by asking the first. With `--tls` and a
//! directory that `echo-load certificates` has made, all connections are TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use curator_echo::EchoService;
use curator_echo::tls::{Failure, Party, SERVER};
use curator_listener::{
    CallerCertificates, Forwarders, Leader, LeaderTerm, Listener, ListenerConfig, Role, Services, StaticStatus,
    TermGuard, TermId, Tls, ToLeader,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

const USAGE: &str =
    "usage: front-server --listen ADDRESS... (--lead | --follow ADDRESS) [--tls DIRECTORY] [--threads N]";

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

async fn run() -> Result<(), Failure> {
    let Arguments {
        addresses,
        role,
        certificates,
        threads,
    } = arguments()?;
    let mut config = ListenerConfig::default();
    config.threads = match threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    // Held while it runs: whoever drops it has no newer certificate to give.
    let mut newest = None;
    if let Some(directory) = certificates {
        let party = Party::read(&directory, SERVER)?;
        let (sender, server) = watch::channel(party.server()?);
        newest = Some(sender);
        config.tls = Some(Tls {
            server,
            to_leader: Arc::new(Known(party.client()?)),
            forwarders: Arc::new(Anybody),
        });
    }
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
    drop(newest);
    Ok(())
}

/// A leader that the certificates say is one.
struct Known(Arc<rustls::ClientConfig>);

impl ToLeader for Known {
    fn config(&self, _: &str) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        Ok(self.0.clone())
    }
}

/// There are no strangers here.
struct Anybody;

#[async_trait]
impl Forwarders for Anybody {
    async fn may_forward(&self, _: &CallerCertificates) -> bool {
        true
    }
}

struct Arguments {
    addresses: Vec<SocketAddr>,
    role: Role,
    certificates: Option<PathBuf>,
    threads: Option<usize>,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut addresses = Vec::new();
    let (mut role, mut certificates, mut threads) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--listen" => addresses.push(words.next().ok_or(USAGE)?.parse()?),
            "--lead" => {
                role = Some(Role::Leader(LeaderTerm::new(term(), Forever)));
            }
            "--follow" => {
                role = Some(Role::Follower(Leader {
                    node_id: SERVER.into(),
                    addresses: vec![words.next().ok_or(USAGE)?],
                    authorizes_forwarded: true,
                    term: term(),
                }));
            }
            "--tls" => certificates = Some(words.next().ok_or(USAGE)?.into()),
            "--threads" => threads = Some(words.next().ok_or(USAGE)?.parse()?),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(Arguments {
        addresses,
        role: role.ok_or(USAGE)?,
        certificates,
        threads,
    })
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
