//! A response stream to a node that ends at the first message after the node was removed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::auth::NodeDirectory;

/// The response body of one call.
pub(super) struct RevocableStream<R> {
    body: Body,
    directory: R,
    id: String,
    key: [u8; 32],
    ended: bool,
}

impl<R> RevocableStream<R> {
    pub(super) const fn new(body: Body, directory: R, id: String, key: [u8; 32]) -> Self {
        Self {
            body,
            directory,
            id,
            key,
            ended: false,
        }
    }
}

impl<R: NodeDirectory> http_body::Body for RevocableStream<R> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.body), cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && self.directory.is_removed(&self.id, &self.key) => {
                self.ended = true;
                // Drops the source of the stream.
                self.body = Body::empty();
                let refused =
                    Status::unauthenticated(format!("node {} is no longer an active node of the cluster", self.id));
                let mut trailers = HeaderMap::new();
                Poll::Ready(Some(match refused.add_header(&mut trailers) {
                    Ok(()) => Ok(Frame::trailers(trailers)),
                    Err(status) => Err(status),
                }))
            }
            _ => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || http_body::Body::is_end_stream(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body::Body as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lost(Arc<AtomicBool>);

    impl NodeDirectory for Lost {
        async fn check(&self, _: &str, _: &[u8; 32]) -> Result<(), Status> {
            Ok(())
        }

        fn is_removed(&self, _: &str, _: &[u8; 32]) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// An endless body of messages.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"message")))))
        }
    }

    #[tokio::test]
    async fn a_deleted_node_gets_no_further_message() {
        let lost = Lost::default();
        let mut answers = RevocableStream::new(Body::new(Endless), lost.clone(), "node-1".into(), [7; 32]);
        let mut next = async || futures::future::poll_fn(|cx| Pin::new(&mut answers).poll_frame(cx)).await;
        for _ in 0..3 {
            assert!(next().await.unwrap().unwrap().is_data());
        }
        lost.0.store(true, Ordering::Relaxed);
        let trailers = next().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "16");
        assert!(next().await.is_none());
    }
}
