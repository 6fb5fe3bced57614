//! The TLS handshake with a client.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio_rustls::LazyConfigAcceptor;

use crate::caller::{CallerCertificates, Standing};
use crate::tls::Tls;
use crate::transport::{Io, Plain};

/// The handshakes of one thread run handshakes with everything else on it: whatever is ready runs between the work of two of them.
/// However many come at once, a call waits for no more than one.
#[derive(Clone, Debug)]
pub(crate) struct HandshakeLimiter(Arc<Semaphore>);

impl Default for HandshakeLimiter {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl HandshakeLimiter {
    /// Does work that takes long, when it is its turn.
    async fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        // Never closed.
        let _turn = self.0.acquire().await.map_err(io::Error::other)?;
        let done = work();
        yield_now().await;
        Ok(done)
    }
}

/// Answers the handshake of a client; returns what it has shown as well, and what the cluster takes that for.
pub(crate) async fn accept(
    stream: Plain,
    tls: &Tls,
    handshakes: &HandshakeLimiter,
) -> io::Result<(Io, CallerCertificates, Standing)> {
    // Nothing is computed for a client that has not said what it wants.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = tls.server.borrow().clone();
    // The agreement on a key and our signature: most of what a handshake costs.
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
