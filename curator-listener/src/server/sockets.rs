//! Listening sockets and other sources of connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::incoming::IncomingConnection;
use super::unix::UnixSocket;

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
/// The address of a peer without one, on this host.
pub(super) const LOCAL_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The connections that an embedder accepts.
pub(crate) type IncomingConnections = Pin<Box<dyn Stream<Item = io::Result<IncomingConnection>> + Send>>;

/// A source of connections.
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixSocket),
    Stream(IncomingConnections),
    /// A stream that has ended.
    Ended,
    #[cfg(feature = "simulation")]
    Simulated(tokio::sync::mpsc::UnboundedReceiver<crate::testing::sim_network::Incoming>),
}

impl Acceptor {
    /// The next connection. Cancellation safe.
    pub(crate) async fn accept(&mut self) -> io::Result<IncomingConnection> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                IncomingConnection::from_tcp(stream, peer)
            }
            Self::Unix(socket) => IncomingConnection::unix(socket.accept().await?),
            Self::Stream(connections) => {
                if let Some(accepted) = connections.next().await {
                    return accepted;
                }
                *self = Self::Ended;
                std::future::pending().await
            }
            Self::Ended => std::future::pending().await,
            #[cfg(feature = "simulation")]
            Self::Simulated(arriving) => match arriving.recv().await {
                Some((stream, peer)) => Ok(IncomingConnection::new(stream, peer)),
                // Another listener has replaced this one.
                None => std::future::pending().await,
            },
        }
    }
}

/// Listens on an address; on `[::]` for IPv4 as well.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Independent of the default of the system.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restarted process must be able to bind the port while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_is_reached_by_both_families() {
        let listener = match listen("[::]:0".parse().expect("an address")) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97) => {
                println!("SKIPPED: this machine has no IPv6");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let port = listener.local_addr().expect("bound").port();
        for address in ["127.0.0.1", "[::1]"] {
            let address: SocketAddr = format!("{address}:{port}").parse().expect("an address");
            tokio::net::TcpStream::connect(address)
                .await
                .unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    }
}
