//! A TCP proxy whose faults can be switched while it runs.
//!
//! Each connection has two lanes, one for each direction. A lane has a reader that notes when each chunk arrived, and a
//! writer that hands chunks on in order, each when its [`Flow`] allows. A lane that is held keeps what it has read, as
//! a network does that loses packets and sees them sent again: once it flows, everything arrives.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, PipeWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::lock;
use super::ports::Port;
use crate::error::{Context, Error, Result};

/// A lane that holds this much reads no more, so that its sender feels it.
const LANE_BYTES: usize = 4 << 20;
const CHUNK: usize = 64 << 10;
const DIAL: Duration = Duration::from_secs(2);
const STACK: usize = 256 << 10;

/// Which way bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the side that connected to the side that listens.
    ToServer,
    /// Back.
    ToClient,
}

/// What a lane does with bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Hands them on at once.
    #[default]
    Pass,
    /// Hands each chunk on no earlier than this long after its arrival, in order.
    Delay(Duration),
    /// Hands on nothing until the flow is another: then all of it, in order. Both directions held is a black hole:
    /// connections are accepted, and nothing answers. The target is not even connected to.
    Hold,
}

/// The faults of some connections, switchable at any time.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<FaultState>,
}

#[derive(Debug, Default)]
struct FaultState {
    flows: [Flow; 2],
    links: Vec<Weak<Link>>,
}

impl Faults {
    /// Switches one direction, for the connections that are there and those to come.
    pub fn set(&self, direction: Direction, flow: Flow) {
        let mut state = lock(&self.state);
        state.flows[direction as usize] = flow;
        for link in state.links.iter().filter_map(Weak::upgrade) {
            link.lanes[direction as usize].set_flow(flow);
        }
    }

    /// Switches both directions.
    pub fn set_both(&self, flow: Flow) {
        self.set(Direction::ToServer, flow);
        self.set(Direction::ToClient, flow);
    }

    fn rule(&self, link: &Arc<Link>) {
        let mut state = lock(&self.state);
        for (lane, flow) in link.lanes.iter().zip(state.flows) {
            lane.set_flow(flow);
        }
        state.links.retain(|other| other.strong_count() > 0);
        state.links.push(Arc::downgrade(link));
    }
}

/// Says which faults rule a new connection, from the address of its client and the proxy's own.
pub type Chooser = Arc<dyn Fn(SocketAddr, SocketAddr) -> Arc<Faults> + Send + Sync>;

/// Which faults rule the connections of a proxy, where not one for all.
#[derive(Clone)]
pub struct Rules {
    /// Those that the proxy's own methods switch.
    pub faults: Arc<Faults>,
    /// Those of each connection.
    pub choose: Chooser,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

/// What went through a proxy so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: usize,
    /// Bytes handed to the target.
    pub bytes_to_server: u64,
    /// Bytes handed to those who connected.
    pub bytes_to_client: u64,
}

/// A proxy in front of one address. All its threads are joined when it is dropped.
pub struct TcpProxy {
    port: Port,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<Acceptor>>,
    faults: Arc<Faults>,
}

struct Shared {
    target: SocketAddr,
    choose: Chooser,
    accepted: AtomicU64,
    bytes: [AtomicU64; 2],
    links: Mutex<Vec<(Arc<Link>, JoinHandle<()>)>>,
}

/// The thread that accepts. It ends when its end of the pipe is closed.
struct Acceptor {
    stop: PipeWriter,
    thread: JoinHandle<()>,
}

impl TcpProxy {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let faults = Arc::new(Faults::default());
        let all = Arc::clone(&faults);
        Self::with_chooser(Port::reserve()?, target, faults, Arc::new(move |_, _| Arc::clone(&all)))
    }

    /// Starts one on that port whose connections are ruled by what `choose` says of each. It is asked on the thread of
    /// the connection, so that it may take its time. `faults` are those that the proxy's own methods switch.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub fn with_chooser(port: Port, target: SocketAddr, faults: Arc<Faults>, choose: Chooser) -> Result<Self> {
        let shared = Arc::new(Shared {
            target,
            choose,
            accepted: AtomicU64::new(0),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            links: Mutex::new(Vec::new()),
        });
        let proxy = Self {
            port,
            shared,
            acceptor: Mutex::new(None),
            faults,
        };
        proxy.accept()?;
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// `http://` and where it listens.
    pub fn url(&self) -> String {
        self.port.url()
    }

    /// Switches the flow of one direction.
    pub fn set(&self, direction: Direction, flow: Flow) {
        self.faults.set(direction, flow);
    }

    /// Lets everything pass, and accepts again if it refused.
    ///
    /// # Errors
    /// When the port cannot be listened on any more.
    pub fn pass(&self) -> Result<()> {
        self.faults.set_both(Flow::Pass);
        self.accept()
    }

    /// Accepts and passes nothing, in either direction.
    pub fn blackhole(&self) {
        self.faults.set_both(Flow::Hold);
    }

    /// Closes all connections and refuses new ones, as if nothing listened here.
    pub fn refuse(&self) {
        if let Some(acceptor) = lock(&self.acceptor).take() {
            acceptor.end();
        }
        self.close_connections();
    }

    /// Accepts again after [`TcpProxy::refuse`].
    ///
    /// # Errors
    /// When the port cannot be listened on any more.
    pub fn accept(&self) -> Result<()> {
        let mut acceptor = lock(&self.acceptor);
        if acceptor.is_none() {
            *acceptor = Some(Acceptor::start(&self.port, &self.shared)?);
        }
        Ok(())
    }

    /// Closes the connections that are there. New ones are accepted.
    pub fn close_connections(&self) {
        for (link, _) in lock(&self.shared.links).iter() {
            link.close();
        }
    }

    /// What went through so far.
    pub fn stats(&self) -> ProxyStats {
        ProxyStats {
            accepted: self.shared.accepted.load(Ordering::SeqCst),
            open: lock(&self.shared.links)
                .iter()
                .filter(|(link, thread)| !link.is_closed() && !thread.is_finished())
                .count(),
            bytes_to_server: self.shared.bytes[Direction::ToServer as usize].load(Ordering::SeqCst),
            bytes_to_client: self.shared.bytes[Direction::ToClient as usize].load(Ordering::SeqCst),
        }
    }
}

impl fmt::Debug for TcpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpProxy")
            .field("address", &self.address())
            .field("target", &self.shared.target)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.refuse();
        let links = std::mem::take(&mut *lock(&self.shared.links));
        for (_, thread) in links {
            let _ = thread.join();
        }
    }
}

impl Acceptor {
    fn start(port: &Port, shared: &Arc<Shared>) -> Result<Self> {
        let address = port.address();
        let what = || format!("the proxy cannot listen on {address}");
        let listener = TcpListener::bind(address).context(what)?;
        listener.set_nonblocking(true).context(what)?;
        let (stopped, stop) = io::pipe().context(what)?;
        let shared = Arc::clone(shared);
        let thread = thread::Builder::new()
            .name("proxy".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                loop {
                    let mut fds = [
                        PollFd::new(&listener, PollFlags::IN),
                        PollFd::new(&stopped, PollFlags::IN),
                    ];
                    let polled = poll(&mut fds, None);
                    if !fds[1].revents().is_empty() || polled.is_err_and(|error| error != rustix::io::Errno::INTR) {
                        break;
                    }
                    if let Ok((client, from)) = listener.accept() {
                        shared.take(client, from, address);
                    }
                }
            })
            .context(what)?;
        Ok(Self { stop, thread })
    }

    fn end(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

impl Shared {
    fn take(self: &Arc<Self>, client: TcpStream, from: SocketAddr, here: SocketAddr) {
        let link = Arc::new(Link::default());
        let prepared = client.set_nonblocking(false).and_then(|()| client.set_nodelay(true));
        if prepared.is_err() || !link.adopt(&client) {
            return;
        }
        let thread = thread::Builder::new()
            .name("proxy link".to_owned())
            .stack_size(STACK)
            .spawn({
                let shared = Arc::clone(self);
                let link = Arc::clone(&link);
                move || {
                    let faults = (shared.choose)(from, here);
                    faults.rule(&link);
                    // A connection that fails ends for both sides, whatever the reason.
                    let _ = link.run(&client, shared.target, &shared.bytes);
                    link.close();
                }
            });
        let mut links = lock(&self.links);
        links.retain(|(_, thread)| !thread.is_finished());
        if let Ok(thread) = thread {
            links.push((link, thread));
        }
        drop(links);
        // Last, so that one who sees it counted also sees whether it is open.
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }
}

/// One connection through the proxy.
#[derive(Debug, Default)]
struct Link {
    lanes: [Lane; 2],
    sockets: Mutex<Vec<TcpStream>>,
    closed: AtomicBool,
}

impl Link {
    /// Makes a socket one that [`Link::close`] closes. False when that has happened already.
    fn adopt(&self, socket: &TcpStream) -> bool {
        let mut sockets = lock(&self.sockets);
        let Ok(socket) = socket.try_clone() else { return false };
        if self.is_closed() {
            let _ = socket.shutdown(Shutdown::Both);
            return false;
        }
        sockets.push(socket);
        true
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Ends both directions at once, whatever is held in them. It also ends the reads and writes that hang.
    fn close(&self) {
        let mut sockets = lock(&self.sockets);
        self.closed.store(true, Ordering::SeqCst);
        for socket in sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(sockets);
        self.lanes.iter().for_each(Lane::close);
    }

    fn run(&self, client: &TcpStream, target: SocketAddr, bytes: &[AtomicU64; 2]) -> io::Result<()> {
        let [up, down] = &self.lanes;
        thread::scope(|scope| {
            let start = |name: &str| thread::Builder::new().name(name.to_owned()).stack_size(STACK);
            let guard = |outcome: io::Result<()>| {
                if outcome.is_err() {
                    self.close();
                }
            };
            start("proxy reader").spawn_scoped(scope, move || guard(up.fill(client)))?;
            // Whoever ends this early must end the others, or the scope would wait for them without end.
            let closing = Closing(self);
            if !up.wait_to_dial() {
                return Ok(());
            }
            let server = TcpStream::connect_timeout(&target, DIAL)?;
            server.set_nodelay(true)?;
            if !self.adopt(&server) {
                return Ok(());
            }
            let reading = server.try_clone()?;
            start("proxy reader").spawn_scoped(scope, move || guard(down.fill(&reading)))?;
            start("proxy writer").spawn_scoped(scope, move || guard(up.drain(&server, &bytes[0])))?;
            let outcome = down.drain(client, &bytes[1]);
            if outcome.is_ok() {
                // The way there may go on after the way back has ended.
                std::mem::forget(closing);
            }
            outcome
        })
    }
}

/// Closes the link when it is dropped.
struct Closing<'a>(&'a Link);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Lane {
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LaneState {
    flow: Flow,
    chunks: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    ended: Option<Instant>,
    closed: bool,
}

/// What a writer does next.
enum Next {
    Chunk(Vec<u8>),
    End,
    Closed,
}

impl Lane {
    fn set_flow(&self, flow: Flow) {
        lock(&self.state).flow = flow;
        self.changed.notify_all();
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Reads until the source ends.
    fn fill(&self, mut from: &TcpStream) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match from.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let mut state = lock(&self.state);
            if count == 0 {
                state.ended = Some(Instant::now());
                self.changed.notify_all();
                return Ok(());
            }
            state.chunks.push_back((Instant::now(), chunk[..count].to_vec()));
            state.held += count;
            self.changed.notify_all();
            while state.held >= LANE_BYTES && !state.closed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return Ok(());
            }
        }
    }

    /// Writes what may go, until the end has been passed on.
    fn drain(&self, mut to: &TcpStream, bytes: &AtomicU64) -> io::Result<()> {
        loop {
            match self.next() {
                Next::Chunk(chunk) => {
                    // First, so that whoever has got them finds them counted.
                    bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                    to.write_all(&chunk)?;
                }
                Next::End => return to.shutdown(Shutdown::Write),
                Next::Closed => return Ok(()),
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return Next::Closed;
            }
            let arrived = state.chunks.front().map(|(at, _)| *at).or(state.ended);
            let wait = match (state.flow, arrived) {
                (Flow::Hold, _) | (_, None) => None,
                (Flow::Pass, Some(_)) => Some(Duration::ZERO),
                (Flow::Delay(delay), Some(at)) => Some((at + delay).saturating_duration_since(Instant::now())),
            };
            state = match wait {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    let Some((_, chunk)) = state.chunks.pop_front() else {
                        return Next::End;
                    };
                    state.held -= chunk.len();
                    self.changed.notify_all();
                    return Next::Chunk(chunk);
                }
                Some(left) => {
                    self.changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Waits until the target may be connected to. False when there is no need any more: a client that gave up while
    /// its connection was held was never connected.
    fn wait_to_dial(&self) -> bool {
        let mut state = lock(&self.state);
        while state.flow == Flow::Hold {
            if state.closed || state.ended.is_some() {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }
}

/// Where a URL such as `http://127.0.0.1:2379` points.
///
/// # Errors
/// When it is none with an address and a port.
pub fn address_of(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.trim_end_matches('/')
        .parse()
        .map_err(|_| Error::new(format!("`{url}` is not of the form http://ADDRESS:PORT")))
}
