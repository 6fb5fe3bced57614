//! Calls with any bytes for a message.

use bytes::{Buf, BufMut, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Bytes as they are, both ways.
#[derive(Clone, Copy, Default)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls a method, and returns its answers, which nobody has read yet.
pub(super) async fn call(channel: Channel, path: &str, request: Request<Bytes>) -> Result<Streaming<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    let gone = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    client.ready().await.map_err(gone)?;
    let path = path.parse().map_err(|_| Status::internal("it is no path"))?;
    let answers = client.server_streaming(request, path, Raw).await?;
    Ok(answers.into_inner())
}

/// The same to the end of the answers.
pub(super) async fn taken(channel: Channel, path: &str, request: Request<Bytes>) -> Result<(), Status> {
    let mut answers = call(channel, path, request).await?;
    while answers.message().await?.is_some() {}
    Ok(())
}
