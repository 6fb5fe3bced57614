//! One HTTP/2 connection to the leader.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::uri::Authority;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{LeaderSuspected, ListenerConfig};
use crate::forward::dial;
use crate::forward::last_heard::LastHeard;
use crate::forward::reset_queue::{AbandonedCall, ResetQueue};
use crate::role::TermId;
use crate::transport::Io;
use crate::transport::counting::CountingStream;

/// How long streams that were reset are remembered. The leader may have sent frames before it saw the reset; frames
/// of a forgotten stream count as errors, and too many errors close the connection. Longer than a leader may be
/// silent.
const RESET_MEMORY: Duration = Duration::from_secs(4);
/// The maximum number of resets within that time.
const MAX_REMEMBERED_RESETS: usize = 8_192;
/// Minimum interval between two rounds of resets. With two rounds in transit this allows 2,000 resets per second.
const MIN_PING_INTERVAL: Duration = Duration::from_millis(8);
/// The overhead of small frames that nobody reads, as a multiple of the window. h2 closes a connection when small
/// frames pile up, and allows half a window by default. With this value all calls of a connection may stall at
/// messages of 90 bytes.
const SMALL_FRAMES: usize = 2;
/// After this many events that the leader may count as errors (it tolerates about a thousand), another connection is
/// opened.
const MAX_WEAR: usize = 256;
/// After this many calls another connection is opened as well: HTTP/2 has 2^30 stream numbers.
const MAX_CALLS: usize = 1 << 29;

/// How long a leader may be silent until it is pinged on the connection that tells of a suspicion.
const SUSPICION_INTERVAL: Duration = Duration::from_millis(250);
/// A leader that does not answer a ping within this time is suspected.
const SUSPICION_TIMEOUT: Duration = Duration::from_millis(200);

/// Tells that the leader of a term seems to be dead.
#[derive(Clone)]
pub(crate) struct Suspicion {
    pub(crate) suspected: LeaderSuspected,
    pub(crate) term: TermId,
}

impl Suspicion {
    pub(crate) fn tell(&self) {
        self.suspected.tell(&self.term);
    }
}

/// A connection that can send calls.
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: Authority,
    open: AtomicUsize,
    closed: Arc<AtomicBool>,
    reset_queue: Arc<ResetQueue>,
    last_heard: Arc<LastHeard>,
    /// The number of calls so far.
    calls: AtomicUsize,
    /// The number of calls that the leader may have counted as errors.
    wear: AtomicUsize,
}

/// Why connecting failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("invalid address")]
    Address,
    #[error("HTTP/2 handshake failed: {0}")]
    Http2(#[from] h2::Error),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    #[error("closed by the leader")]
    ByLeader,
    #[error("replaced by another connection")]
    Replaced,
    #[error("lost: {0}")]
    Lost(#[from] h2::Error),
    #[error("no answer to a ping for {0:?}")]
    Silent(Duration),
}

/// Descriptions for callers, who may be strangers: without details from the system or TLS.
impl ConnectError {
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "it cannot be connected to",
            Self::Silent(_) => "it does not answer",
            Self::Address => "invalid address",
            Self::Http2(_) => "it does not speak HTTP/2",
        }
    }
}

impl Closed {
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::ByLeader => "closed by the leader",
            Self::Replaced => "replaced",
            Self::Lost(_) => "lost",
            Self::Silent(_) => "closed: the leader does not answer pings",
        }
    }
}

/// The slot of a call on a connection. Dropping it frees the slot.
pub(crate) struct Slot {
    connection: Arc<Connection>,
    /// Keeps the connection open after the pool has been replaced.
    _keep_open: Arc<dyn Any + Send + Sync>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slot {
    /// The `:authority` of requests on the connection.
    pub(crate) fn authority(&self) -> Authority {
        self.connection.authority.clone()
    }

    /// A handle that sends one request.
    pub(crate) fn requests(&self) -> SendRequest<Bytes> {
        self.connection.requests.clone()
    }

    /// When the leader was last heard on the connection.
    pub(crate) fn last_heard(&self) -> Arc<LastHeard> {
        self.connection.last_heard.clone()
    }

    /// Abandons what is left of the call.
    pub(crate) fn abandon(self, rest: impl FnOnce(Self) -> AbandonedCall) {
        let reset_queue = self.connection.reset_queue.clone();
        let rest = rest(self);
        if rest.request.is_some() {
            rest.slot.wears();
        }
        reset_queue.take(rest);
    }

    /// Counts an event that the leader may have counted as an error: a frame that may have arrived after it forgot
    /// the stream.
    pub(crate) fn wears(&self) {
        self.connection.wear.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection accepts no more calls; others need not try it.
    pub(crate) fn give_up(&self) {
        self.connection.closed.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    /// The number of open calls; `None` if the connection accepts no more.
    pub(crate) fn open(&self) -> Option<usize> {
        (!self.closed.load(Ordering::Relaxed)).then(|| self.open.load(Ordering::Relaxed))
    }

    /// Whether another connection should replace this one.
    pub(crate) fn is_worn(&self) -> bool {
        self.wear.load(Ordering::Relaxed) >= MAX_WEAR || self.calls.load(Ordering::Relaxed) >= MAX_CALLS
    }

    /// Takes a slot.
    pub(crate) fn slot(self: &Arc<Self>, keep_open: Arc<dyn Any + Send + Sync>) -> Slot {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Slot {
            connection: self.clone(),
            _keep_open: keep_open,
        }
    }
}

/// Connects. Returns the connection once the leader has answered a first ping, together with the future that drives
/// it. The future must be polled as long as the connection is to live, and completes when it ends.
pub(crate) async fn connect(
    address: &str,
    node_id: &str,
    config: &ListenerConfig,
    suspicion: Option<&Suspicion>,
) -> Result<(Arc<Connection>, impl Future<Output = Closed> + Send + use<>), ConnectError> {
    let limit = config.connect_timeout;
    let authority = Authority::try_from(address).map_err(|_| ConnectError::Address)?;
    let opening = async {
        let stream = dial::connect(address, config).await?;
        let last_heard = LastHeard::new();
        let io = match &config.tls {
            Some(tls) => dial::handshake(stream, tls, node_id, address).await?,
            None => Io::Plain(stream),
        };
        let io = CountingStream::new(io, last_heard.clone());
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.window_to_leader())
            .max_header_list_size(config.max_headers_read())
            .max_concurrent_reset_streams(MAX_REMEMBERED_RESETS)
            .reset_stream_duration(RESET_MEMORY)
            .data_frame_budget(SMALL_FRAMES.saturating_mul(config.window_to_leader() as usize))
            .enable_push(false)
            .handshake::<_, Bytes>(io)
            .await?;
        let mut pings = connection
            .ping_pong()
            .ok_or_else(|| io::Error::other("a new connection cannot send pings"))?;
        // A host whose process hangs still accepts connections; only a pong proves that the process is alive.
        let mut connection = Box::pin(connection);
        tokio::select! {
            ended = &mut connection => {
                ended?;
                return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
            }
            pong = pings.ping(Ping::opaque()) => pong?,
        };
        Ok::<_, ConnectError>((requests, connection, pings, last_heard))
    };
    let (requests, mut driver, pings, last_heard) = timeout(limit, opening)
        .await
        .map_err(|_| ConnectError::Silent(limit))??;
    let (closed, reset_queue) = (Arc::new(AtomicBool::new(false)), Arc::<ResetQueue>::default());
    let connection = Arc::new(Connection {
        requests,
        authority,
        open: AtomicUsize::new(0),
        closed: closed.clone(),
        reset_queue: reset_queue.clone(),
        last_heard: last_heard.clone(),
        calls: AtomicUsize::new(0),
        wear: AtomicUsize::new(0),
    });
    let (interval, ping_timeout) = (config.leader_ping_interval, config.leader_ping_timeout);
    // The connection ends once nothing refers to it.
    let this = Arc::downgrade(&connection);
    let ending = Ending {
        closed,
        reset_queue,
        last_heard,
    };
    let suspicion = suspicion.cloned();
    let driving = async move {
        let ended = tokio::select! {
            ended = &mut driver => match ended {
                Ok(()) if Weak::strong_count(&this) == 0 => Closed::Replaced,
                Ok(()) => Closed::ByLeader,
                Err(error) => Closed::Lost(error),
            },
            closed = watch_liveness(pings, &ending, interval, ping_timeout, suspicion) => closed,
        };
        ending.closed.store(true, Ordering::Relaxed);
        // Dropping the driver ends the calls on the connection.
        drop(driver);
        ended
    };
    Ok((connection, driving))
}

/// Marks a connection as ended when its driver ends for any reason.
struct Ending {
    closed: Arc<AtomicBool>,
    reset_queue: Arc<ResetQueue>,
    last_heard: Arc<LastHeard>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        self.reset_queue.end();
        self.last_heard.end();
    }
}

/// Sends pings: if the leader is silent, a call waits to hear it, or the reset queue needs an answer. Completes when a
/// ping is not answered. Any data from the leader counts as a sign of life until a ping is due.
async fn watch_liveness(
    mut pings: PingPong,
    connection: &Ending,
    interval: Duration,
    ping_timeout: Duration,
    suspicion: Option<Suspicion>,
) -> Closed {
    let silent_after = interval + ping_timeout;
    // With a suspicion to tell of, a silent leader is asked earlier, and has as long to answer as otherwise.
    let interval = suspicion
        .as_ref()
        .map_or(interval, |_| interval.min(SUSPICION_INTERVAL));
    let mut answered = Instant::now();
    loop {
        let wanted = async {
            tokio::select! {
                () = connection.reset_queue.wants_answer() => {}
                () = connection.last_heard.wanted() => {}
            }
        };
        let limit = tokio::select! {
            () = connection.last_heard.is_silent_for(interval) => silent_after - interval,
            // The leader has not been silent yet.
            () = wanted => {
                sleep_until(answered + MIN_PING_INTERVAL).await;
                silent_after
            }
        };
        let pong = async {
            let mut pong = std::pin::pin!(pings.ping(Ping::opaque()));
            let Some(suspicion) = &suspicion else {
                return pong.await;
            };
            loop {
                match timeout(SUSPICION_TIMEOUT, &mut pong).await {
                    Ok(answered) => return answered,
                    Err(_) => suspicion.tell(),
                }
            }
        };
        match timeout(limit, pong).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Closed::Lost(error),
            Err(_) => return Closed::Silent(silent_after),
        }
        connection.reset_queue.answered();
        answered = Instant::now();
    }
}
