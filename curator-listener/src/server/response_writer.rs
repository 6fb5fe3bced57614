//! What goes out for one call: counted until the socket has it, and not asked of the service while its party has no room.

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

/// A piece of an answer, counted until it is dropped.
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

/// The client has given the call up, or is gone.
pub(super) struct Gone;

/// Sends an answer, no faster than the client takes it. `window` is what may come from a leader for somebody who takes nothing.
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
            debug!(%error, "an answer cannot be sent");
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
            debug!("the client has given up a call");
            return Err(gone);
        }
    }
    Ok(())
}

struct Sending<'a> {
    stream: SendStream<Piece>,
    held: &'a Arc<ConnectionMemory>,
    /// What may come from the leader meanwhile for a caller who takes nothing, if the answer is from there.
    behind: Option<usize>,
    turn: RoomWait,
}

impl Sending<'_> {
    async fn all(&mut self, body: &mut Body) -> Result<(), Gone> {
        loop {
            // First what there is to send, and then a place for it: who waits with nothing in hand must not have a part of the
            // connection's window meanwhile.
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

    /// Waits until the client takes more.
    async fn capacity(&mut self) -> Result<(), Gone> {
        // As little as can be asked for: the piece itself asks for the rest.
        self.stream.reserve_capacity(1);
        if self.stream.capacity() > 0 {
            return Ok(());
        }
        if self.behind.is_some_and(|window| !self.held.fits(window)) {
            debug!("a call is ended: too many answers wait for the same caller to take them");
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
                    // It is said of less as well.
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
