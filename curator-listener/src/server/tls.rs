//! The TLS handshake with a client.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio_rustls::LazyConfigAcceptor;

use crate::caller::{CallerCertificates, Standing};
use crate::server::ListenError;
use crate::tls::{Tls, offers_http2};
use crate::transport::{Io, Plain};

/// Limits the handshakes of one thread: between the CPU work of two handshakes all other ready tasks run, so that a
/// call waits for at most one handshake.
#[derive(Clone, Debug)]
pub(crate) struct HandshakeLimiter(Arc<Semaphore>);

impl Default for HandshakeLimiter {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl HandshakeLimiter {
    /// Runs CPU-bound work when it is its turn.
    async fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        // The semaphore is never closed.
        let _turn = self.0.acquire().await.map_err(io::Error::other)?;
        let done = work();
        yield_now().await;
        Ok(done)
    }
}

/// Does the TLS handshake with a client. Returns the stream, the certificates of the client, and their class.
pub(crate) async fn accept(
    stream: Plain,
    tls: &Tls,
    handshakes: &HandshakeLimiter,
) -> io::Result<(Io, CallerCertificates, Standing)> {
    // No CPU work before the client has sent its ClientHello.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = tls.server.borrow().clone();
    if !offers_http2(&config.alpn_protocols) {
        return Err(io::Error::other(ListenError::NoHttp2));
    }
    // Key agreement and signature: most of the cost of a handshake.
    let stream = handshakes.run(|| hello.into_stream(config)).await?.await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = CallerCertificates::of_client(shown)
        .ok_or_else(|| io::Error::other("the client's certificate chain is too long"))?;
    let standing = if shown.0.is_empty() {
        Standing::Stranger
    } else {
        handshakes.run(|| tls.forwarders.standing(&shown)).await?
    };
    Ok((Io::Tls(Box::new(stream.into())), shown, standing))
}
