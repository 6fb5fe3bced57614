//! TLS on the way in and on the way to the leader, and whose certificate a call came with.
//!
//! The listener encrypts and passes on. Whom a certificate is for, and what that allows, is for the services to say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::HeaderValue;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use rustls::server::Acceptor;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::yield_now;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use crate::caller::Standing;

/// How a listener encrypts.
#[derive(Clone)]
pub struct Tls {
    /// For connections that come in. The newest is used for each new connection; those that are open go on.
    pub server: watch::Receiver<Arc<ServerConfig>>,
    /// For connections to the leader.
    pub to_leader: Arc<dyn ToLeader>,
    /// Whose word is taken for who makes a forwarded call.
    pub forwarders: Arc<dyn Forwarders>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

/// Connects to leaders.
pub trait ToLeader: Send + Sync + 'static {
    /// A configuration that accepts the leader on this node, and nobody else. Asked for each new connection.
    ///
    /// # Errors
    /// There is none.
    fn config(&self, node_id: &str) -> Result<Arc<ClientConfig>, rustls::Error>;
}

/// Knows which instances may forward.
#[async_trait]
pub trait Forwarders: Send + Sync + 'static {
    /// Whether whoever has shown these certificates may say who makes the calls that it forwards. Asked while this instance
    /// leads, for each forwarded call; it may wait until that can be said. Cancellation safe.
    async fn may_forward(&self, shown: &CallerCertificates) -> bool;

    /// Whom the cluster has made these certificates for; what that allows is not asked. Callers for whom it has not are kept apart
    /// from the others on the way to the leader, and wait behind them while nobody leads; users have places there that nodes do
    /// not take. Asked once a connection, wherever it comes in, if any are shown; it must not block.
    fn standing(&self, shown: &CallerCertificates) -> Standing {
        let _ = shown;
        Standing::Member
    }

    /// Why the leader would refuse a call of this method (`/package.Service/Method`) whatever it says, by what its caller has shown: then
    /// it is refused with `UNAUTHENTICATED` where it comes in, and neither waits for a leader nor goes to one. Asked for calls of those
    /// whom the cluster does not know; it must not block.
    fn refuses(&self, path: &str, shown: &CallerCertificates) -> Option<String> {
        let _ = (path, shown);
        None
    }
}

/// The certificates that the caller has shown, whichever instance the call came in through: in the extensions of each call of
/// a listener with TLS. None if the caller has shown none.
///
/// The caller has proven to have the key of the first one. Nothing else about them has been looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallerCertificates(pub Arc<[CertificateDer<'static>]>);

/// As many of one caller are passed on: its own, and that of its authority.
const MOST_CERTIFICATES: usize = 2;
/// All certificates of one caller together, in bytes. Those of a cluster have a few hundred, and followers send them with each
/// call, so what a stranger shows must not fill the headers of connections that others use as well.
const LONGEST_CERTIFICATES: usize = 8 << 10;

impl CallerCertificates {
    /// For the leader, in a header.
    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        let texts: Vec<String> = self
            .0
            .iter()
            .take(MOST_CERTIFICATES)
            .map(|certificate| STANDARD_NO_PAD.encode(certificate))
            .collect();
        (!texts.is_empty()).then(|| HeaderValue::from_str(&texts.join(",")).ok())?
    }

    /// What a forwarder says that the caller has shown; `None` if it cannot be read.
    pub(crate) fn from_header(header: &HeaderValue) -> Option<Self> {
        let certificates: Option<Vec<_>> = header
            .to_str()
            .ok()?
            .split(',')
            .map(|text| Some(CertificateDer::from(STANDARD_NO_PAD.decode(text).ok()?)))
            .collect();
        Some(Self(certificates?.into()))
    }
}

/// A connection as it arrives: that of a socket, or of the simulated network where there is one.
#[cfg(not(feature = "simulation"))]
pub(crate) type Plain = TcpStream;
#[cfg(feature = "simulation")]
pub(crate) type Plain = tokio_util::either::Either<TcpStream, tokio::io::DuplexStream>;

/// The connection of a socket.
pub(crate) fn plain(stream: TcpStream) -> Plain {
    #[cfg(feature = "simulation")]
    let stream = Plain::Left(stream);
    stream
}

/// A connection, encrypted or not.
pub(crate) enum Io {
    Plain(Plain),
    Tls(Box<TlsStream<Plain>>),
}

/// The handshakes of one thread take turns with everything else on it: whatever is ready runs between the work of two of them.
/// However many come at once, a call waits for no more than one.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Turns {
    /// Does work that takes long, when it is its turn.
    async fn take<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        // Never closed.
        let _turn = self.0.acquire().await.map_err(io::Error::other)?;
        let done = work();
        yield_now().await;
        Ok(done)
    }
}

/// Answers the handshake of a client; returns what it has shown as well, and what the cluster takes that for.
pub(crate) async fn accept(stream: Plain, tls: &Tls, turns: &Turns) -> io::Result<(Io, CallerCertificates, Standing)> {
    // Nothing is computed for a client that has not said what it wants.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = tls.server.borrow().clone();
    // The agreement on a key and our signature: most of what a handshake costs.
    let stream = turns.take(|| hello.into_stream(config)).await?.await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    if shown.iter().map(|certificate| certificate.len()).sum::<usize>() > LONGEST_CERTIFICATES {
        return Err(io::Error::other("the client's certificates are too long"));
    }
    let shown = match shown {
        // What is cut off must not make the rest look good: twice its own is good for nobody.
        [own, ..] if shown.len() > MOST_CERTIFICATES => vec![own.clone(); MOST_CERTIFICATES],
        shown => shown.to_vec(),
    };
    let shown = CallerCertificates(shown.into());
    let standing = match shown.0.is_empty() {
        true => Standing::Stranger,
        false => turns.take(|| tls.forwarders.standing(&shown)).await?,
    };
    Ok((Io::Tls(Box::new(stream.into())), shown, standing))
}

/// Shakes hands with the leader on a node.
pub(crate) async fn connect(stream: Plain, tls: &Tls, node_id: &str) -> io::Result<Io> {
    let config = tls.to_leader.config(node_id).map_err(io::Error::other)?;
    // The configuration knows whom it wants; a name is only asked for because one must be given.
    let name = ServerName::try_from(node_id.to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0]))));
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Io::Tls(Box::new(stream.into())))
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificates(all: &[&'static [u8]]) -> CallerCertificates {
        CallerCertificates(all.iter().map(|der| CertificateDer::from(*der)).collect())
    }

    #[test]
    fn certificates_are_passed_on_as_they_are() {
        for shown in [certificates(&[b"one"]), certificates(&[b"one", b"\x00\xff"])] {
            let header = shown.to_header().expect("some");
            assert_eq!(CallerCertificates::from_header(&header), Some(shown));
        }
        assert_eq!(CallerCertificates::default().to_header(), None);
        let many = certificates(&[b"1", b"2", b"3"]).to_header().expect("some");
        assert_eq!(
            CallerCertificates::from_header(&many).map(|shown| shown.0.len()),
            Some(2)
        );
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        for bad in ["!", "a", "YQ,!"] {
            let header = HeaderValue::from_static(bad);
            assert_eq!(CallerCertificates::from_header(&header), None, "{bad}");
        }
    }
}
