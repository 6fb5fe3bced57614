//! The listener: its sockets, its lifecycle, and the handle to it.

mod accept;
mod accept_batch;
mod activity;
mod admission;
mod builder;
mod connection;
mod handle;
mod http2;
mod incoming;
mod lifecycle;
mod limits;
mod own_services;
mod progress;
mod response_writer;
mod sockets;
mod tls;
mod unix;
mod worker;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::ListenerConfig;
use crate::dispatch::routing::Route;
use crate::role::StatusStream;
use crate::services::{Services, ServicesError};
pub use builder::ListenerBuilder;
pub use handle::ListenerHandle;
pub use incoming::IncomingConnection;
use lifecycle::Lifecycle;
use progress::WorkerProbe;
use sockets::Acceptor;
use worker::Worker;

/// The default address: all addresses of both families, on the port of the Curator.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7835);

/// Open sockets that are not served yet.
pub struct Listener {
    sockets: Vec<Acceptor>,
    addresses: Vec<SocketAddr>,
    config: Arc<ListenerConfig>,
    route_updates: watch::Sender<Arc<Route>>,
    serving: watch::Sender<bool>,
    unready: CancellationToken,
    /// The workers, once the listener runs.
    probes: watch::Sender<Vec<WorkerProbe>>,
}

/// Why the listener cannot start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// There is no source of connections.
    #[error("no address to listen on: give at least one, for example {DEFAULT_ADDRESS}")]
    Nowhere,
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another address, or stop the process that uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// A Unix socket cannot be bound.
    #[error("cannot listen on {}: {source}; choose another path, or stop the process that uses it", path.display())]
    BindUnix {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The TLS configuration does not offer HTTP/2.
    #[error(
        "the TLS configuration does not offer h2 in ALPN: add b\"h2\" to the `alpn_protocols` of the `ServerConfig`"
    )]
    NoHttp2,
    /// Two services have the same name.
    #[error("cannot serve these services: {0}")]
    Services(#[from] ServicesError),
    /// A worker thread cannot be started.
    #[error("cannot start a worker thread: {0}")]
    Thread(io::Error),
    /// The descriptors cannot be used for server reflection.
    #[error("cannot serve the descriptors by reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A task of the listener ended unexpectedly.
    #[error("a task of the listener {0}")]
    Task(String),
}

impl Listener {
    /// A builder, for more than TCP addresses: Unix sockets, and connections that the embedder accepts.
    pub const fn builder(config: ListenerConfig) -> ListenerBuilder {
        ListenerBuilder::new(config)
    }

    /// Opens TCP sockets. Connections wait in their backlogs until [`run`](Self::run). `[::]` listens on IPv4 as well.
    ///
    /// # Errors
    /// If no address is given, one of them cannot be bound, or TLS does not offer `h2` in ALPN.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn bind(addresses: impl IntoIterator<Item = SocketAddr>, config: ListenerConfig) -> Result<Self, ListenError> {
        let builder = Self::builder(config);
        addresses.into_iter().fold(builder, ListenerBuilder::address).build()
    }

    /// The addresses of the sockets, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle to the listener.
    #[must_use]
    pub fn handle(&self) -> ListenerHandle {
        ListenerHandle {
            config: self.config.clone(),
            route_updates: self.route_updates.subscribe(),
            serving: self.serving.subscribe(),
            unready: self.unready.clone(),
            probes: self.probes.subscribe(),
        }
    }

    /// Serves calls until cancelled. Then it sends a GOAWAY on its connections and waits for the calls in flight. New
    /// connections are still accepted, for clients that know no other address. After
    /// [`drain_limit`](ListenerConfig::drain_limit) it stops listening and ends the remaining calls with
    /// `UNAVAILABLE`. After [`grace`](ListenerConfig::grace) it closes the remaining connections.
    ///
    /// Not cancellation safe: dropping the future closes all connections.
    ///
    /// # Errors
    /// If two services have the same name, a worker or reflection cannot be started, or a task ended unexpectedly.
    pub async fn run<T: Clone + Send + Sync + 'static>(
        self,
        status: impl StatusStream<T>,
        services: Services<T>,
        cancel: CancellationToken,
    ) -> Result<(), ListenError> {
        // A failure of the listener must not cancel the caller's token.
        let cancel = cancel.child_token();
        let services = own_services::add(services, self.serving.subscribe(), &cancel)?;
        let workers = Worker::start_all(self.config.threads)
            .await
            .map_err(ListenError::Thread)?;
        let mut lifecycle = Lifecycle::start(self, status.subscribe(), services, workers, cancel);
        let outcome = lifecycle.until_end().await;
        lifecycle.shut_down().await;
        outcome
    }
}
