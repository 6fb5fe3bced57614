//! Listening sockets, and the streams that they accept.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::transport::{self, Plain};

/// The maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// A source of connections.
pub(crate) enum Acceptor {
    Socket(TcpListener),
    #[cfg(feature = "simulation")]
    Simulated(
        tokio::sync::mpsc::UnboundedReceiver<crate::testing::sim_network::Incoming>,
        SocketAddr,
    ),
}

/// An accepted connection on its way to the runtime that serves it.
pub(crate) enum IncomingStream {
    Stream(std::net::TcpStream),
    #[cfg(feature = "simulation")]
    Simulated(tokio::io::DuplexStream),
}

impl Acceptor {
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Socket(socket) => socket.local_addr(),
            #[cfg(feature = "simulation")]
            Self::Simulated(_, address) => Ok(*address),
        }
    }

    /// The next connection. Cancellation safe.
    pub(crate) async fn accept(&mut self) -> io::Result<(IncomingStream, SocketAddr)> {
        match self {
            Self::Socket(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((IncomingStream::Stream(stream.into_std()?), peer))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(arriving, _) => match arriving.recv().await {
                Some((stream, peer)) => Ok((IncomingStream::Simulated(stream), peer)),
                // Another listener has replaced this one.
                None => std::future::pending().await,
            },
        }
    }
}

impl IncomingStream {
    /// Registers the connection with the current runtime.
    pub(crate) fn open(self) -> io::Result<Plain> {
        match self {
            Self::Stream(stream) => {
                // Otherwise small messages would wait for the acknowledgement of the previous one (Nagle).
                stream.set_nodelay(true)?;
                Ok(transport::plain(TcpStream::from_std(stream)?))
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(stream) => Ok(Plain::Right(stream)),
        }
    }
}

/// Listens on an address; on `[::]` for IPv4 as well.
pub(crate) fn listen(address: SocketAddr) -> io::Result<Acceptor> {
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
    Ok(Acceptor::Socket(TcpListener::from_std(socket.into())?))
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
        let port = listener.address().expect("bound").port();
        for address in ["127.0.0.1", "[::1]"] {
            let address: SocketAddr = format!("{address}:{port}").parse().expect("an address");
            TcpStream::connect(address)
                .await
                .unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    }
}
