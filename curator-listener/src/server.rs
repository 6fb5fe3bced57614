//! The listener: its sockets, its lifecycle, and the handle to it.

mod accept;
mod accept_batch;
mod activity;
mod admission;
mod connection;
mod handle;
mod http2;
mod lifecycle;
mod limits;
mod own_services;
mod progress;
mod response_writer;
mod sockets;
mod tls;
mod worker;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::ListenerConfig;
use crate::dispatch::routing::Route;
use crate::role::StatusStream;
use crate::services::Services;
pub use handle::ListenerHandle;
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
    /// No address was given.
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
    /// Opens the sockets. Connections wait in their backlogs until [`run`](Self::run). `[::]` listens on IPv4 as
    /// well.
    ///
    /// # Errors
    /// If no address is given or one of them cannot be bound.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn bind(addresses: impl IntoIterator<Item = SocketAddr>, config: ListenerConfig) -> Result<Self, ListenError> {
        let mut opened = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let failed = |source| ListenError::Bind { address, source };
            let socket = sockets::listen(address).map_err(failed)?;
            bound.push(socket.address().map_err(failed)?);
            opened.push(socket);
        }
        #[cfg(feature = "simulation")]
        if let Some(host) = &config.simulated {
            bound = vec![host.address()];
            opened = vec![Acceptor::Simulated(host.listen(), host.address())];
        }
        if opened.is_empty() {
            return Err(ListenError::Nowhere);
        }
        let unknown = Route::Undetermined {
            reason: "this instance is starting".into(),
        };
        Ok(Self {
            sockets: opened,
            addresses: bound,
            config: Arc::new(config),
            route_updates: watch::Sender::new(Arc::new(unknown)),
            serving: watch::Sender::new(false),
            unready: CancellationToken::new(),
            probes: watch::Sender::default(),
        })
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
    /// If a worker or reflection cannot be started, or a task ended unexpectedly.
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
