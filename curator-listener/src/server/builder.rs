//! Building a listener: its configuration, and where its connections come from.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::incoming::IncomingConnection;
use super::sockets::{self, Acceptor, IncomingConnections};
use super::unix::UnixSocket;
use super::{ListenError, Listener};
use crate::config::ListenerConfig;
use crate::dispatch::routing::Route;
use crate::tls::offers_http2;

/// Builds a [`Listener`]. All its sources of connections share the limits and TLS of one [`ListenerConfig`].
///
/// ```
/// use curator_listener::{IncomingConnection, Listener, ListenerConfig};
/// use futures::StreamExt;
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("listener-example-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// // A socket that the program accepts on itself, for example one that systemd has opened.
/// let own = TcpListener::bind("127.0.0.1:0").await?;
/// let accepted = futures::stream::unfold(own, |own| async {
///     let connection = own.accept().await.and_then(|(stream, _)| IncomingConnection::tcp(stream));
///     Some((connection, own))
/// });
/// let listener = Listener::builder(ListenerConfig::default())
///     .address("127.0.0.1:0".parse()?)
///     .unix_socket(directory.join("curator.sock"))
///     .connections(accepted)
///     .build()?;
/// assert_eq!(listener.addresses().len(), 1);
/// # drop(listener);
/// # std::fs::remove_dir(&directory)?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder opens no socket until it is built"]
pub struct ListenerBuilder {
    config: ListenerConfig,
    sources: Vec<Source>,
}

/// Where connections come from.
enum Source {
    Address(SocketAddr),
    Unix(PathBuf),
    Connections(IncomingConnections),
}

impl ListenerBuilder {
    pub(super) const fn new(config: ListenerConfig) -> Self {
        Self {
            config,
            sources: Vec::new(),
        }
    }

    /// Listens on a TCP address. `[::]` listens on IPv4 as well; port 0 lets the system choose one
    /// ([`Listener::addresses`]).
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.sources.push(Source::Address(address));
        self
    }

    /// Listens on a Unix socket at this path. A socket file on which no process listens any more is replaced; the file
    /// is removed when the listener ends. Who may connect is decided by the permissions of the file's directory.
    ///
    /// All its clients are one peer, `127.0.0.1`. If the configuration has TLS, they use TLS as well.
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::Unix(path.into()));
        self
    }

    /// Takes connections that the embedder accepts: an accept loop of its own, sockets that a supervisor passes on, or
    /// a tunnel. The stream is polled when there is room for a connection.
    ///
    /// An error is logged, and the stream is polled again after 100 ms. When the stream ends, the other sources and
    /// all open connections go on. The stream is dropped when the listener stops accepting.
    pub fn connections<S>(mut self, connections: S) -> Self
    where
        S: Stream<Item = io::Result<IncomingConnection>> + Send + 'static,
    {
        self.sources.push(Source::Connections(Box::pin(connections)));
        self
    }

    /// Opens the sockets. Connections wait in their backlogs until [`Listener::run`].
    ///
    /// # Errors
    /// If there is no source of connections, a socket cannot be opened, or TLS does not offer `h2` in ALPN.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn build(self) -> Result<Listener, ListenError> {
        let Self { config, sources } = self;
        if let Some(tls) = &config.tls
            && !offers_http2(&tls.server.borrow().alpn_protocols)
        {
            return Err(ListenError::NoHttp2);
        }
        let (mut opened, mut addresses) = (Vec::new(), Vec::new());
        for source in sources {
            opened.push(match source {
                Source::Address(address) => {
                    let failed = |source| ListenError::Bind { address, source };
                    let socket = sockets::listen(address).map_err(failed)?;
                    addresses.push(socket.local_addr().map_err(failed)?);
                    Acceptor::Tcp(socket)
                }
                Source::Unix(path) => {
                    let failed = |source| ListenError::BindUnix {
                        path: path.clone(),
                        source,
                    };
                    Acceptor::Unix(UnixSocket::listen(path.clone()).map_err(failed)?)
                }
                Source::Connections(connections) => Acceptor::Stream(connections),
            });
        }
        #[cfg(feature = "simulation")]
        if let Some(host) = &config.simulated {
            addresses = vec![host.address()];
            opened = vec![Acceptor::Simulated(host.listen())];
        }
        if opened.is_empty() {
            return Err(ListenError::Nowhere);
        }
        let unknown = Route::Undetermined {
            reason: "this instance is starting".into(),
        };
        Ok(Listener {
            sockets: opened,
            addresses,
            config: Arc::new(config),
            route_updates: watch::Sender::new(Arc::new(unknown)),
            serving: watch::Sender::new(false),
            unready: CancellationToken::new(),
            probes: watch::Sender::default(),
        })
    }
}
