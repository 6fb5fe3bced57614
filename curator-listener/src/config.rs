//! The listener's limits and times, with the reasons for their defaults.

use std::time::Duration;

use crate::tls::Tls;

/// As many as every release takes of one connection.
const MAX_CALLS_PER_LEADER_CONNECTION: u32 = 256;

/// On a stranger's connection there may be so many times fewer calls ...
const STRANGER_CALLS_DIVISOR: u32 = 8;
/// ... but as many as clients assume before they have received the settings of the connection.
const MIN_STRANGER_CALLS: u32 = 100;

/// The limits and times of a [`Listener`](crate::Listener). All memory that a peer can make it use is bounded by them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerConfig {
    /// Threads that serve connections, each with a runtime of its own, on which the leader's services run as well. With 0 all
    /// is on the caller's runtime. As many as cores makes forwarding cheapest: the two connections of a call never wake each
    /// other across threads.
    pub threads: usize,
    /// How long a call may wait for a leader, if its own deadline is not sooner. It should outlast the change after a leader
    /// was lost: what outlasts that is a cluster without one. See [`hold_for_ttl`](Self::hold_for_ttl).
    pub hold_cap: Duration,
    /// How many calls may wait at a time. For one more, whoever has most of them gives a place to those who have fewer, and
    /// callers that the cluster does not know to those that it does ([`Forwarders::standing`](crate::Forwarders::standing)); what finds
    /// no room is refused with `RESOURCE_EXHAUSTED`, and told when to come again (`grpc-retry-pushback-ms`).
    pub hold_limit: usize,
    /// How long a leader that steps down as planned waits for the calls that it is in_flight.
    pub drain_limit: Duration,
    /// How long calls under way may take to end once the listener is told to stop.
    pub grace: Duration,
    /// As many connections may be open; any more are closed at once, unless there is one that has made no call yet: then that
    /// one is. 10,000 nodes with one each, and as many to spare.
    pub max_connections: usize,
    /// As many connections of one peer may be open: an IPv4 address, or a /64 of IPv6. `None` for a quarter of
    /// [`max_connections`](Self::max_connections), and no limit for the loopback addresses, which whole clusters share in tests,
    /// and all clients of a proxy on this host. A number counts for those as well.
    pub max_connections_per_peer: Option<usize>,
    /// As many connections may be open whose client has not spoken HTTP/2 yet, after the TLS handshake if there is one. For one
    /// more the oldest of the peer with most of them is cut, so that those who hang keep nobody out. With a round trip of 100 ms
    /// a thousand of them let 5,000 connections a second in.
    pub max_new_connections: usize,
    /// As many bytes of requests may be kept at a time, of all calls, to be sent again if nothing of them ran. What does not fit
    /// is sent once only. A hundred thousand of ordinary calls.
    pub max_kept_bytes: usize,
    /// As many bytes may be held at a time of all callers together: requests that nobody has read, answers that nobody takes,
    /// and open calls. Of one whom the cluster knows half of what is free: 85 MiB, if nobody else holds any. Strangers have a
    /// quarter of it together, and one address of theirs an eighth of what is free there: 7 MiB. Who has no room is not read from,
    /// and further calls are refused with `RESOURCE_EXHAUSTED`; a connection with next to nothing always goes on.
    pub max_memory: usize,
    /// As many calls may be under way on one connection, since clients open one for all that they do; on a stranger's an eighth,
    /// but a hundred if there can be as many. Times [`stream_window`](Self::stream_window) it is the window of the connection, so
    /// that calls whose reader has stopped cannot take it all and freeze the others on it.
    pub max_concurrent_calls: u32,
    /// As much of one call's messages may be under way or buffered, in bytes. At a round trip of 1 ms it lets 250 MB/s
    /// through for each call.
    pub stream_window: u32,
    /// All headers of a call together, in bytes.
    pub max_header_list_size: u32,
    /// A client that has not begun to speak HTTP/2 by then is cut off.
    pub handshake_timeout: Duration,
    /// A connection without a call for so long is closed.
    pub idle_timeout: Duration,
    /// A connection takes no calls any more once it is so old, give or take a tenth, and its client is told so; those under way
    /// end by themselves. With it clients spread over the instances again after one was restarted. `None` for any age.
    pub max_connection_age: Option<Duration>,
    /// An HTTP/2 ping to a client that has been silent for so long ...
    pub client_ping_interval: Duration,
    /// ... must be answered within this.
    pub client_ping_timeout: Duration,
    /// How long a connection to the leader may take until it has answered for the first time.
    pub connect_timeout: Duration,
    /// An HTTP/2 ping to a leader that has been silent for so long ...
    pub leader_ping_interval: Duration,
    /// ... must be answered within this. A leader that hangs is noticed within the sum of the two.
    pub leader_ping_timeout: Duration,
    /// How many connections to the leader each thread keeps open for unary calls, beside one for streams. More are opened
    /// while all of them are three quarters full.
    pub leader_connections: usize,
    /// Encrypts all connections, to clients and to the leader; `None` for none, which only loopback is good for.
    pub tls: Option<Tls>,
    /// A place in a simulated network: no socket is opened, and no address but that is listened on.
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
            tls: None,
            #[cfg(feature = "simulation")]
            simulated: None,
        }
    }
}

impl ListenerConfig {
    /// With the [`hold_cap`](Self::hold_cap) for this TTL of the leader: that long it takes until the lease of one that was lost
    /// runs out, and five seconds more are enough for the store to notice, the election, and connections to the next leader.
    #[must_use]
    pub fn hold_for_ttl(mut self, ttl: Duration) -> Self {
        self.hold_cap = ttl + Duration::from_secs(5);
        self
    }

    /// How many connections one peer may have.
    pub(crate) fn connections_per_peer(&self) -> usize {
        self.max_connections_per_peer
            .unwrap_or_else(|| (self.max_connections / 4).max(1))
    }

    /// The longest head of an answer that is read, and the least of a request's: longer than one that is taken, so that what an
    /// instance adds to a call that it forwards fits as well.
    pub(crate) const fn max_headers_read(&self) -> u32 {
        self.max_header_list_size.saturating_mul(2)
    }

    /// How many calls a stranger's connection may have.
    pub(crate) fn calls_of_stranger(&self) -> u32 {
        calls_of_stranger(self.max_concurrent_calls)
    }

    /// How many calls go on one connection to the leader. Further ones get another connection, and what is kept of answers there
    /// is bounded by its window.
    pub(crate) fn calls_to_leader(&self) -> u32 {
        self.max_concurrent_calls.min(MAX_CALLS_PER_LEADER_CONNECTION)
    }

    /// The window of a whole connection to the leader.
    pub(crate) fn window_to_leader(&self) -> u32 {
        window_of_all(self.stream_window, self.calls_to_leader())
    }
}

/// The window of a connection with so many calls: with all of them stalled there is some left.
pub(crate) const fn window_of_all(stream_window: u32, calls: u32) -> u32 {
    /// The most that HTTP/2 can say.
    const MAX_WINDOW: u32 = 0x7fff_ffff;
    let all = stream_window.saturating_mul(calls);
    if all > MAX_WINDOW { MAX_WINDOW } else { all }
}

/// How many calls a stranger's connection may have, of so many that others' may.
pub(crate) fn calls_of_stranger(calls: u32) -> u32 {
    (calls / STRANGER_CALLS_DIVISOR).max(calls.min(MIN_STRANGER_CALLS))
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
