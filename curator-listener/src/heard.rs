//! A socket that says how much has been read from it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::Io;

/// Who is told of what comes in.
pub(crate) trait Listening {
    /// So many bytes have come in.
    fn heard(&self, bytes: usize);
}

/// Adds them up, and wraps around.
impl Listening for AtomicUsize {
    fn heard(&self, bytes: usize) {
        self.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A socket that says what comes in.
pub(crate) struct Heard<L> {
    stream: Io,
    to: Arc<L>,
}

impl<L> Heard<L> {
    pub(crate) const fn new(stream: Io, to: Arc<L>) -> Self {
        Self { stream, to }
    }
}

impl<L: Listening> AsyncRead for Heard<L> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.to.heard(read);
        }
        polled
    }
}

impl<L> AsyncWrite for Heard<L> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
