//! An accepted connection on its way to the thread that serves it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::sockets::LOCAL_PEER;
use crate::transport::{ByteStream, Plain};

/// A connection that an embedder has accepted, for
/// [`ListenerBuilder::connections`](crate::ListenerBuilder::connections). The listener does its TLS handshake, if it
/// has TLS, and counts it for its peer as it does for its own.
pub struct IncomingConnection {
    stream: IncomingStream,
    peer: SocketAddr,
}

enum IncomingStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Other(Box<dyn ByteStream>),
}

impl IncomingConnection {
    /// A TCP connection.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        Self::from_tcp(stream, peer)
    }

    /// A connection of a Unix socket. Its peer is `127.0.0.1`.
    ///
    /// # Errors
    /// If the connection cannot leave its runtime.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: IncomingStream::Unix(stream.into_std()?),
            peer: LOCAL_PEER,
        })
    }

    /// A connection of any other kind, from this peer. The peer's address is what
    /// [`CallerAddress`](crate::CallerAddress) says, and what limits for each peer apply to. A stream that belongs to a
    /// runtime stays there: that runtime must live as long as the connection.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: SocketAddr) -> Self {
        Self {
            stream: IncomingStream::Other(Box::new(stream)),
            peer,
        }
    }

    pub(super) fn from_tcp(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            stream: IncomingStream::Tcp(stream.into_std()?),
            peer,
        })
    }

    /// The origin of the connection.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Registers the connection with the current runtime.
    pub(super) fn open(self) -> io::Result<Plain> {
        Ok(match self.stream {
            IncomingStream::Tcp(stream) => {
                // Otherwise small messages would wait for the acknowledgement of the previous one (Nagle).
                stream.set_nodelay(true)?;
                Plain::Tcp(TcpStream::from_std(stream)?)
            }
            IncomingStream::Unix(stream) => Plain::Unix(UnixStream::from_std(stream)?),
            IncomingStream::Other(stream) => Plain::Other(stream),
        })
    }
}

impl fmt::Debug for IncomingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingConnection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
