//! HTTP/2 without gRPC: a client that sees everything, and leaders that the tests control.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::fixture::{Instance, in_time};

/// A connection of a client.
pub(crate) struct RawClient {
    requests: SendRequest<Bytes>,
    authority: String,
    driver: JoinHandle<()>,
}

impl Drop for RawClient {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, 65_535).await
    }

    pub(crate) async fn with_window(address: SocketAddr, window: u32) -> Self {
        let stream = in_time(TcpStream::connect(address)).await.unwrap();
        Self::over(stream, address, window).await.unwrap()
    }

    /// With TLS, if there is a configuration. An error if the handshake fails.
    pub(crate) async fn secured(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        match tls {
            None => Self::over(stream, address, 65_535).await,
            Some(tls) => {
                let name = curator_echo::tls::server_name()?;
                let stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
                Self::over(stream, address, 65_535).await
            }
        }
    }

    pub(crate) async fn over(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        address: SocketAddr,
        window: u32,
    ) -> std::io::Result<Self> {
        let (requests, connection) = in_time(
            h2::client::Builder::new()
                .initial_window_size(window)
                .initial_connection_window_size(64 << 20)
                .handshake::<_, Bytes>(io),
        )
        .await
        .map_err(std::io::Error::other)?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            authority: address.to_string(),
            driver,
        })
    }

    /// A call without a message, if the connection is open.
    pub(crate) async fn try_call(&self, path: &str) -> Option<Answer> {
        let request =
            Request::post(format!("http://{}{path}", self.authority)).header("content-type", "application/grpc");
        let mut requests = self.requests.clone().ready().await.ok()?;
        let (response, _) = requests.send_request(request.body(()).unwrap(), true).ok()?;
        Some(Answer::read(response.await.ok()?).await)
    }

    /// Begins a call.
    pub(crate) async fn begin(&self, path: &str, headers: &[(&str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = in_time(self.requests.clone().ready()).await.unwrap();
        requests.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// Any request without a body.
    pub(crate) async fn request(&self, method: &str, path: &str, content_type: Option<&str>) -> Response<RecvStream> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let mut requests = in_time(self.requests.clone().ready()).await.unwrap();
        let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        in_time(response).await.unwrap()
    }

    /// Begins a call at once, if the connection accepts it.
    pub(crate) fn try_begin(&self, path: &str) -> Option<(ResponseFuture, SendStream<Bytes>)> {
        let request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        self.requests.clone().send_request(request, false).ok()
    }

    /// The maximum number of concurrent calls that the peer has announced.
    pub(crate) fn most_calls(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Whether the connection is open.
    pub(crate) fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }

    /// A whole call with one message.
    pub(crate) async fn call(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let (response, mut stream) = self.begin(path, headers).await;
        stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        Answer::read(in_time(response).await.unwrap()).await
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: BytesMut,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) async fn read(response: Response<RecvStream>) -> Self {
        let (parts, mut stream) = response.into_parts();
        let mut body = BytesMut::new();
        while let Some(data) = in_time(stream.data()).await {
            let data = data.unwrap();
            stream.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        let trailers = in_time(stream.trailers()).await.unwrap().unwrap_or_default();
        Self {
            headers: parts.headers,
            body,
            trailers,
        }
    }

    /// The gRPC code, from the trailers or else from the headers.
    pub(crate) fn code(&self) -> Option<&str> {
        let status = self
            .trailers
            .get("grpc-status")
            .or_else(|| self.headers.get("grpc-status"))?;
        status.to_str().ok()
    }

    pub(crate) fn message(&self) -> String {
        let message = self
            .trailers
            .get("grpc-message")
            .or_else(|| self.headers.get("grpc-message"));
        message.map_or_else(String::new, |message| message.to_str().unwrap().to_owned())
    }
}

/// A request that has arrived at a leader.
pub(crate) struct Seen {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    /// The index of its connection.
    pub(crate) connection: usize,
}

impl Seen {
    /// The whole body.
    pub(crate) async fn body(&mut self) -> BytesMut {
        let stream = self.request.body_mut();
        let mut body = BytesMut::new();
        while let Some(data) = in_time(stream.data()).await {
            let data = data.unwrap();
            stream.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        body
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    /// A response with a body and OK.
    pub(crate) fn answer(mut self, body: &'static [u8]) {
        let mut stream = self.begin();
        stream.send_data(Bytes::from_static(body), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    }

    /// The head of a response.
    pub(crate) fn begin(&mut self) -> SendStream<Bytes> {
        let head = Response::builder().header("content-type", "application/grpc");
        self.respond.send_response(head.body(()).unwrap(), false).unwrap()
    }
}

/// What a leader of raw HTTP/2 does with its connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Sends GOAWAY on all connections.
    GoAway,
    /// Closes all connections.
    Close,
    /// Stops all of them, like a process that hangs.
    Hang,
}

/// A leader that passes its requests to the test.
pub(crate) struct RawLeader {
    pub(crate) address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    orders: tokio::sync::broadcast::Sender<Order>,
    task: JoinHandle<()>,
}

impl Drop for RawLeader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawLeader {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn on(socket: TcpListener) -> Self {
        let address = socket.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let (orders, _) = tokio::sync::broadcast::channel(8);
        let to_all = orders.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut number = 0;
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                connections.spawn(serve(stream, number, sender.clone(), to_all.subscribe()));
                number += 1;
            }
        });
        Self {
            address,
            seen,
            orders,
            task,
        }
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Seen {
        in_time(self.seen.recv()).await.unwrap()
    }

    /// Whether there has been no further request.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    seen: mpsc::UnboundedSender<Seen>,
    mut orders: tokio::sync::broadcast::Receiver<Order>,
) {
    let Ok(mut http) = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(stream)
        .await
    else {
        return;
    };
    loop {
        tokio::select! {
            request = http.accept() => match request {
                Some(Ok((request, respond))) => {
                    let _ = seen.send(Seen { request, respond, connection });
                }
                _ => return,
            },
            order = orders.recv() => match order {
                Ok(Order::GoAway) => http.graceful_shutdown(),
                Ok(Order::Hang) => {
                    tokio::time::sleep(Duration::from_secs(3_600)).await;
                    drop(http);
                    return;
                }
                _ => return,
            },
        }
    }
}

/// A leader that speaks HTTP/2 byte by byte. It answers the first request of its first connection with a GOAWAY that
/// names the last processed stream, and closes. Returns the number of requests on that connection; a further one is
/// passed to the test.
pub(crate) async fn goes_away_naming(last_stream: u32, socket: &TcpListener) -> usize {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    };
    // The second connection, for streams, is left waiting.
    let mut others = Vec::new();
    loop {
        let (mut stream, _) = in_time(socket.accept()).await.unwrap();
        let mut preface = [0; 24];
        in_time(stream.read_exact(&mut preface)).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
        let mut requests = 0;
        loop {
            let mut head = [0; 9];
            match tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut head)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => break,
                Err(_) => {
                    others.push(stream);
                    break;
                }
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            in_time(stream.read_exact(&mut payload)).await.unwrap();
            match (head[3], head[4] & ACK) {
                (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, ACK, &[])).await.unwrap(),
                (PING, 0) => stream.write_all(&frame(PING, ACK, &payload)).await.unwrap(),
                (HEADERS, _) => {
                    requests += 1;
                    let mut told = last_stream.to_be_bytes().to_vec();
                    told.extend_from_slice(&0_u32.to_be_bytes());
                    stream.write_all(&frame(GOAWAY, 0, &told)).await.unwrap();
                    stream.shutdown().await.unwrap();
                    return requests;
                }
                _ => {}
            }
        }
    }
}

/// A leader, an instance that follows it and is connected, and a client of that instance.
pub(crate) async fn pair() -> (RawLeader, Instance, RawClient) {
    let leader = RawLeader::start().await;
    let follower = Instance::following(leader.address, 1);
    follower.serves(true).await;
    let client = RawClient::connect(follower.address).await;
    (leader, follower, client)
}
