//! Opening sockets, and what arrives on them.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::transport::{self, Plain};

/// As many connections may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Where connections arrive.
pub(crate) enum Acceptor {
    Socket(TcpListener),
    #[cfg(feature = "simulation")]
    Simulated(
        tokio::sync::mpsc::UnboundedReceiver<crate::testing::sim_network::Incoming>,
        SocketAddr,
    ),
}

/// A connection that has arrived, on its way to the runtime that serves it.
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
                // Another one has taken its place.
                None => std::future::pending().await,
            },
        }
    }
}

impl IncomingStream {
    /// The connection, on this runtime.
    pub(crate) fn open(self) -> io::Result<Plain> {
        match self {
            Self::Stream(stream) => {
                // Without it, small messages wait for the acknowledgement of the one before.
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
        // Whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Connections of a process that has just ended must not keep its successor from the port.
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
