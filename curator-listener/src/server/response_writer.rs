//! Writes a response: its data counts until it is on the socket, and more is requested only when the party has room.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::Response;
use http_body::{Body as _, Frame};
use tracing::debug;

use crate::dispatch::body::Body;
use crate::inbound::FRAME;
use crate::memory::{Charge, ConnectionMemory, RoomWait};

/// A chunk of a response. It counts until it is dropped.
pub(super) struct Piece {
    bytes: Bytes,
    _charge: Option<Charge>,
}

impl Piece {
    const END: Self = Self {
        bytes: Bytes::new(),
        _charge: None,
    };
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// The client has cancelled the call or is gone.
pub(super) struct Gone;

/// Sends a response with backpressure from the client. `window` is how much a leader may send for a client that takes
/// nothing.
pub(super) async fn send(
    mut respond: SendResponse<Piece>,
    response: Response<Body>,
    held: &Arc<ConnectionMemory>,
    window: usize,
) -> Result<(), Gone> {
    let (head, mut body) = response.into_parts();
    let ended = body.is_end_stream();
    let stream = match respond.send_response(Response::from_parts(head, ()), ended) {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%error, "cannot send a response");
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Err(Gone);
        }
    };
    if !ended {
        let mut sending = Sending {
            stream,
            held,
            behind: matches!(body, Body::Forwarded(_)).then_some(window),
            turn: RoomWait::default(),
        };
        if let Err(gone) = sending.all(&mut body).await {
            debug!("the client has cancelled a call");
            return Err(gone);
        }
    }
    Ok(())
}

struct Sending<'a> {
    stream: SendStream<Piece>,
    held: &'a Arc<ConnectionMemory>,
    /// For a forwarded response: how much the leader may send while the client takes nothing.
    behind: Option<usize>,
    turn: RoomWait,
}

impl Sending<'_> {
    async fn all(&mut self, body: &mut Body) -> Result<(), Gone> {
        loop {
            // First get data, then capacity: a call without data must not hold part of the connection's window.
            let frame = poll_fn(|cx| self.poll_next(body, cx)).await?;
            let Some(frame) = frame else {
                return self.data(Piece::END, true);
            };
            match frame.into_data() {
                Ok(bytes) if bytes.is_empty() => {
                    if body.is_end_stream() {
                        return self.data(Piece::END, true);
                    }
                }
                Ok(bytes) => {
                    let charge = self.held.charge(bytes.len() + FRAME);
                    self.capacity().await?;
                    let piece = Piece {
                        bytes,
                        _charge: Some(charge),
                    };
                    let last = body.is_end_stream();
                    self.data(piece, last)?;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    return self.stream.send_trailers(trailers).map_err(|_| Gone);
                }
            }
        }
    }

    /// The next frame, once there is room for it.
    fn poll_next(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Gone>> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Gone));
        }
        if self.turn.poll(self.held, cx).is_pending() {
            return Poll::Pending;
        }
        Pin::new(body).poll_frame(cx).map(|frame| {
            Ok(frame.map(|frame| match frame {
                Ok(frame) => frame,
                Err(never) => match never {},
            }))
        })
    }

    /// Waits until the client takes more data.
    async fn capacity(&mut self) -> Result<(), Gone> {
        // Reserve the minimum: sending the chunk reserves the rest.
        self.stream.reserve_capacity(1);
        if self.stream.capacity() > 0 {
            return Ok(());
        }
        if self.behind.is_some_and(|window| !self.held.fits(window)) {
            debug!("call reset: memory limit of the caller reached (unread responses)");
            self.stream.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Err(Gone);
        }
        let _behind = self.behind.map(|window| self.held.charge(window));
        poll_fn(|cx| {
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            loop {
                return match self.stream.poll_capacity(cx) {
                    // It is also ready when the capacity is reduced.
                    Poll::Ready(Some(Ok(0))) => continue,
                    Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(())),
                    Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Err(Gone)),
                    Poll::Pending => Poll::Pending,
                };
            }
        })
        .await
    }

    fn data(&mut self, piece: Piece, last: bool) -> Result<(), Gone> {
        self.stream.send_data(piece, last).map_err(|_| Gone)
    }
}
