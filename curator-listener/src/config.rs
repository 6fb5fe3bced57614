//! The limits and timeouts of the listener, and the reasons for the defaults.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::role::TermId;
use crate::tls::Tls;

/// The maximum number of calls on one connection to the leader. Every release accepts that many.
const MAX_CALLS_PER_LEADER_CONNECTION: u32 = 256;

/// A stranger's connection may have this many times fewer calls ...
const STRANGER_CALLS_DIVISOR: u32 = 8;
/// ... but at least as many as clients assume before they receive the SETTINGS of the connection.
const MIN_STRANGER_CALLS: u32 = 100;

/// The limits and timeouts of a [`Listener`](crate::Listener). They bound all memory that a peer can make it use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerConfig {
    /// Number of threads that serve connections. Each has its own runtime, which also runs the leader's services. 0
    /// runs everything on the caller's runtime. One thread per core makes forwarding cheapest: the two connections of
    /// a call then never wake each other across threads.
    pub threads: usize,
    /// How long a call may wait for a leader, if its own deadline is not earlier. It should be longer than a
    /// failover. See [`hold_for_ttl`](Self::hold_for_ttl).
    pub hold_cap: Duration,
    /// The maximum number of calls that wait for a leader. When it is reached, the caller with the most waiting calls
    /// gives way to callers with fewer, and unknown callers give way to known ones
    /// ([`Forwarders::standing`](crate::Forwarders::standing)). Other calls are refused with `RESOURCE_EXHAUSTED` and
    /// a retry delay (`grpc-retry-pushback-ms`).
    pub hold_limit: usize,
    /// How long a leader that steps down waits for its calls in flight.
    pub drain_limit: Duration,
    /// How long calls in flight may take to end after the listener is told to stop.
    pub grace: Duration,
    /// The maximum number of open connections. Further ones are closed at once, unless an open connection has made no
    /// call yet: then that one is closed instead. The default is twice 10,000 nodes with one connection each.
    pub max_connections: usize,
    /// The maximum number of open connections of one peer: an IPv4 address, or a /64 of IPv6. `None` means a quarter
    /// of [`max_connections`](Self::max_connections), and no limit for loopback addresses, which test clusters and
    /// the clients of a local proxy share. A number applies to loopback as well.
    pub max_connections_per_peer: Option<usize>,
    /// The maximum number of connections whose client has not sent the HTTP/2 preface yet, after the TLS handshake if
    /// there is one. When it is reached, the oldest of the peer with the most such connections is closed, so that
    /// clients that hang lock nobody out. At a round trip of 100 ms, 1,000 of them admit 5,000 connections per
    /// second.
    pub max_new_connections: usize,
    /// The maximum size of all request bodies that are buffered for a retry, in bytes. A request that does not fit is
    /// sent only once. The default fits a hundred thousand ordinary calls.
    pub max_kept_bytes: usize,
    /// The maximum memory of all callers together, in bytes: requests that are not read, answers that are not taken,
    /// and open calls. A known caller may use half of what is free: 85 MiB if nobody else uses any. Strangers share a
    /// quarter of the total, and one address may use an eighth of what is free there: 7 MiB. The sockets of a caller
    /// without room are not read, and its further calls are refused with `RESOURCE_EXHAUSTED`. A connection that uses
    /// almost nothing always goes on.
    pub max_memory: usize,
    /// The maximum number of calls in flight on one connection; clients open one connection for all their calls. A
    /// stranger may have an eighth, but at least 100 or this limit. The window of a connection is this number times
    /// [`stream_window`](Self::stream_window), so that stalled calls cannot freeze the others on it.
    pub max_concurrent_calls: u32,
    /// The HTTP/2 window of one call, in bytes: how much of its messages may be in transit or buffered. At a round
    /// trip of 1 ms the default allows 250 MB/s for each call.
    pub stream_window: u32,
    /// The maximum size of all headers of a call, in bytes.
    pub max_header_list_size: u32,
    /// A client that has not sent the HTTP/2 preface within this time is disconnected.
    pub handshake_timeout: Duration,
    /// A connection without calls is closed after this time.
    pub idle_timeout: Duration,
    /// After this time, give or take a tenth, a connection accepts no further calls: its client gets a GOAWAY, and
    /// calls in flight finish. This redistributes clients over the instances after a restart. `None` for no limit.
    pub max_connection_age: Option<Duration>,
    /// A client that has been silent for this long gets an HTTP/2 ping ...
    pub client_ping_interval: Duration,
    /// ... and must answer it within this time.
    pub client_ping_timeout: Duration,
    /// How long connecting to the leader may take, up to its first answer.
    pub connect_timeout: Duration,
    /// A leader that has been silent for this long gets an HTTP/2 ping ...
    pub leader_ping_interval: Duration,
    /// ... and must answer it within this time. A leader that hangs is detected within the sum of the two.
    pub leader_ping_timeout: Duration,
    /// Is told when the leader seems to be dead: it cannot be connected to, a connection to it breaks, or it does not
    /// answer a ping within 200 ms. It is told again for as long as that is so. With it the leader is pinged on one
    /// connection once it has been silent for 250 ms, and a call is sent only to a leader that was heard in the last
    /// 25 ms, if need be by a ping: other calls wait.
    pub leader_suspected: Option<LeaderSuspected>,
    /// How many connections for unary calls each thread keeps open to the leader, beside one for streams. Another one
    /// is opened when all of them are three quarters full.
    pub leader_connections: usize,
    /// TLS for all connections, from clients and to the leader. `None` for plaintext, which is only safe on loopback.
    pub tls: Option<Tls>,
    /// The host in a simulated network. No socket is opened, and the listener listens only on this address.
    #[cfg(feature = "simulation")]
    pub simulated: Option<crate::testing::sim_network::SimHost>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            hold_cap: Duration::from_secs(15),
            hold_limit: 16_384,
            drain_limit: Duration::from_secs(1),
            grace: Duration::from_secs(5),
            max_connections: 20_000,
            max_connections_per_peer: None,
            max_new_connections: 4_096,
            max_kept_bytes: 64 << 20,
            max_memory: 256 << 20,
            max_concurrent_calls: 1_024,
            stream_window: 256 << 10,
            max_header_list_size: 64 << 10,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15 * 60),
            max_connection_age: None,
            client_ping_interval: Duration::from_secs(20),
            client_ping_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            leader_ping_interval: Duration::from_secs(1),
            leader_ping_timeout: Duration::from_secs(2),
            leader_connections: 1,
            leader_suspected: None,
            tls: None,
            #[cfg(feature = "simulation")]
            simulated: None,
        }
    }
}

impl ListenerConfig {
    /// Sets [`hold_cap`](Self::hold_cap) for a leader's TTL. The lease of a lost leader takes one TTL to expire. Five
    /// seconds more are enough for the store to notice, for the election, and for connections to the next leader.
    #[must_use]
    pub fn hold_for_ttl(mut self, ttl: Duration) -> Self {
        self.hold_cap = ttl + Duration::from_secs(5);
        self
    }

    /// The maximum number of connections of one peer.
    pub(crate) fn connections_per_peer(&self) -> usize {
        self.max_connections_per_peer
            .unwrap_or_else(|| (self.max_connections / 4).max(1))
    }

    /// The maximum size of a response head that is read, and the minimum for a request head. It is larger than
    /// `max_header_list_size`, so that the headers that a forwarding instance adds fit as well.
    pub(crate) const fn max_headers_read(&self) -> u32 {
        self.max_header_list_size.saturating_mul(2)
    }

    /// The maximum number of calls on a stranger's connection.
    pub(crate) fn calls_of_stranger(&self) -> u32 {
        calls_of_stranger(self.max_concurrent_calls)
    }

    /// The maximum number of calls on one connection to the leader. Further calls use another connection. The window
    /// bounds how much of their answers is buffered.
    pub(crate) fn calls_to_leader(&self) -> u32 {
        self.max_concurrent_calls.min(MAX_CALLS_PER_LEADER_CONNECTION)
    }

    /// The window of a connection to the leader.
    pub(crate) fn window_to_leader(&self) -> u32 {
        window_of_all(self.stream_window, self.calls_to_leader())
    }
}

/// The window of a connection with this many calls. It is not exhausted when all of them stall.
pub(crate) const fn window_of_all(stream_window: u32, calls: u32) -> u32 {
    /// The maximum window size in HTTP/2.
    const MAX_WINDOW: u32 = 0x7fff_ffff;
    let all = stream_window.saturating_mul(calls);
    if all > MAX_WINDOW { MAX_WINDOW } else { all }
}

/// The maximum number of calls on a stranger's connection, given that of other connections.
pub(crate) fn calls_of_stranger(calls: u32) -> u32 {
    (calls / STRANGER_CALLS_DIVISOR).max(calls.min(MIN_STRANGER_CALLS))
}

/// Is told of a leader that seems to be dead, by its term. It must not block.
#[derive(Clone)]
pub struct LeaderSuspected(Arc<dyn Fn(&TermId) + Send + Sync>);

impl LeaderSuspected {
    /// Calls `suspected` each time.
    pub fn new(suspected: impl Fn(&TermId) + Send + Sync + 'static) -> Self {
        Self(Arc::new(suspected))
    }

    pub(crate) fn tell(&self, term: &TermId) {
        (self.0)(term);
    }
}

impl fmt::Debug for LeaderSuspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaderSuspected")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_follows_the_ttl() {
        let hold = |ttl| {
            ListenerConfig::default()
                .hold_for_ttl(Duration::from_secs(ttl))
                .hold_cap
        };
        assert_eq!(hold(3), Duration::from_secs(8));
        assert_eq!(hold(60), Duration::from_secs(65));
    }
}
