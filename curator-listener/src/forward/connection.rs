//! One HTTP/2 connection to the leader.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::uri::Authority;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::pool::Pool;
use crate::config::ListenerConfig;
use crate::heard::Heard;
use crate::tls::{self, Io, Plain};

/// A connection that calls can be sent on.
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: Authority,
    open: AtomicUsize,
    closed: AtomicBool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("that is no address")]
    Address,
    #[error("does not speak HTTP/2: {0}")]
    Http2(#[from] h2::Error),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    #[error("closed by the leader")]
    ByPeer,
    #[error("lost: {0}")]
    Lost(#[from] h2::Error),
    #[error("silent for {0:?}")]
    Silent(Duration),
}

/// What callers may know, who may be strangers: not what the system or TLS says of the leader's side.
impl ConnectError {
    pub(crate) const fn told(&self) -> &'static str {
        match self {
            Self::Io(_) => "it cannot be connected to",
            Self::Silent(_) => "it does not answer",
            Self::Address => "that is no address",
            Self::Http2(_) => "it does not speak HTTP/2",
        }
    }
}

impl Closed {
    pub(crate) const fn told(&self) -> &'static str {
        match self {
            Self::ByPeer => "closed by the leader",
            Self::Lost(_) => "lost",
            Self::Silent(_) => "cut: the leader is silent",
        }
    }
}

/// A call's place on a connection. Dropping it frees the place.
pub(crate) struct Place {
    connection: Arc<Connection>,
    /// Keeps the connection going after the pool is not used for new calls any more.
    _pool: Arc<Pool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Whom requests on it are addressed to.
    pub(crate) fn authority(&self) -> Authority {
        self.connection.authority.clone()
    }

    /// A handle to send one request with.
    pub(crate) fn requests(&self) -> SendRequest<Bytes> {
        self.connection.requests.clone()
    }

    /// The connection takes no more: nobody needs to try it again.
    pub(crate) fn give_up(&self) {
        self.connection.closed.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    /// How many calls are on it; `None` if it takes no more.
    pub(crate) fn open(&self) -> Option<usize> {
        (!self.closed.load(Ordering::Relaxed)).then(|| self.open.load(Ordering::Relaxed))
    }

    /// Takes a place on it.
    pub(crate) fn place(self: &Arc<Self>, pool: &Arc<Pool>) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        Place {
            connection: self.clone(),
            _pool: pool.clone(),
        }
    }
}

/// Connects. The connection is returned once the other side has answered for the first time, together with the future that
/// keeps it going: it must be polled for as long as the connection is to live, and ends with it.
pub(crate) async fn connect(
    address: &str,
    node_id: &str,
    config: &ListenerConfig,
) -> Result<(Arc<Connection>, impl Future<Output = Closed> + Send + use<>), ConnectError> {
    let limit = config.connect_timeout;
    let authority = Authority::try_from(address).map_err(|_| ConnectError::Address)?;
    let opening = async {
        let stream = dial(address, config).await?;
        let heard = Arc::new(AtomicUsize::new(0));
        let io = match &config.tls {
            Some(tls) => tls::connect(stream, tls, node_id).await?,
            None => Io::Plain(stream),
        };
        let io = Heard::new(io, heard.clone());
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window())
            .max_header_list_size(config.max_header_list_size)
            .max_concurrent_reset_streams(1_024)
            .enable_push(false)
            .handshake::<_, Bytes>(io)
            .await?;
        let mut pings = connection
            .ping_pong()
            .ok_or_else(|| io::Error::other("no pings on a new connection"))?;
        // A host whose process hangs still accepts; only an answer shows that somebody is there.
        let mut connection = Box::pin(connection);
        tokio::select! {
            ended = &mut connection => {
                ended?;
                return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
            }
            pong = pings.ping(Ping::opaque()) => pong?,
        };
        Ok::<_, ConnectError>((requests, connection, pings, heard))
    };
    let (requests, mut driver, pings, heard) = timeout(limit, opening)
        .await
        .map_err(|_| ConnectError::Silent(limit))??;
    let connection = Arc::new(Connection {
        requests,
        authority,
        open: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
    });
    let (interval, patience) = (config.leader_ping_interval, config.leader_ping_timeout);
    let this = connection.clone();
    let driving = async move {
        let closed = tokio::select! {
            ended = &mut driver => match ended {
                Ok(()) => Closed::ByPeer,
                Err(error) => Closed::Lost(error),
            },
            closed = watch_silence(pings, heard, interval, patience) => closed,
        };
        this.closed.store(true, Ordering::Relaxed);
        // The calls on it learn of its end when this is dropped.
        drop(driver);
        closed
    };
    Ok((connection, driving))
}

#[cfg_attr(not(feature = "simulation"), allow(unused_variables))]
async fn dial(address: &str, config: &ListenerConfig) -> io::Result<Plain> {
    #[cfg(feature = "simulation")]
    if let Some(host) = &config.simulated {
        let address = address.parse().map_err(io::Error::other)?;
        return Ok(Plain::Right(host.connect(address).await?));
    }
    let stream = TcpStream::connect(address).await?;
    // Without it, small messages wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(tls::plain(stream))
}

/// Completes when the other side has not answered a ping in time. Whatever it sends counts as a sign of life.
async fn watch_silence(mut pings: PingPong, heard: Arc<AtomicUsize>, interval: Duration, patience: Duration) -> Closed {
    loop {
        sleep(interval).await;
        if heard.swap(0, Ordering::Relaxed) > 0 {
            continue;
        }
        match timeout(patience, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Closed::Lost(error),
            Err(_) => return Closed::Silent(interval + patience),
        }
    }
}
