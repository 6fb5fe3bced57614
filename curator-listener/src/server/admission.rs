//! Admission of connections: limits for all, for each peer, and for connections that have made no call yet.
//!
//! A connection is *new* until its client has sent the HTTP/2 preface, after the TLS handshake if there is one. It is
//! *silent* until its first call. After that it is never closed for another connection. When there are too many new
//! connections, the oldest one of the peer with the most of them is closed, so that clients that hang lock nobody
//! out. When the total limit is reached, the oldest silent connection is closed for the same reason.
//!
//! A connection counts for the address that it comes from until its client has presented a certificate that the
//! cluster knows. Then it counts for that client, so that many nodes can share one address.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::caller::{Caller, Party, Peer, Standing};
use crate::config::ListenerConfig;
use crate::limit_alerts::{Limit, LimitAlerts};

/// Limits the connections of a listener.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    all: usize,
    of_a_peer: usize,
    /// Whether connections from loopback are exempt from the limit of a peer.
    spare_loopback: bool,
    new: usize,
    limit_alerts: Arc<LimitAlerts>,
    table: Mutex<Table>,
    /// Notified when the last permit is returned.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// The party of each connection.
    taken: HashMap<u64, Arc<Party>>,
    by_party: HashMap<Arc<Party>, usize>,
    next: u64,
    new: BTreeMap<u64, Waiting>,
    silent: BTreeMap<u64, Waiting>,
}

/// A connection without calls.
#[derive(Debug)]
struct Waiting {
    peer: Peer,
    cut: CancellationToken,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error("connection limit reached")]
    LimitReached,
    #[error("connection limit of the peer reached")]
    PeerLimitReached,
}

/// The permit of a connection. Dropping it returns the permit.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
    peer: Peer,
    address: IpAddr,
    cut: CancellationToken,
}

impl ConnectionLimiter {
    pub(crate) fn new(config: &ListenerConfig, limit_alerts: Arc<LimitAlerts>) -> Arc<Self> {
        Arc::new(Self {
            all: config.max_connections,
            of_a_peer: config.connections_per_peer(),
            spare_loopback: config.max_connections_per_peer.is_none(),
            new: config.max_new_connections.max(1),
            limit_alerts,
            table: Mutex::default(),
            emptied: Notify::new(),
        })
    }

    /// Completes when there are no connections. Cancellation safe.
    pub(crate) async fn empty(&self) {
        loop {
            let mut emptied = pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.table().taken.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Admits a connection from this address; another connection may be closed for it.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPermit, AdmissionError> {
        let peer = Peer::of(address);
        let party = Arc::new(Party::At(peer));
        let mut table = self.table();
        if table.of(&party) >= self.of_a_peer && !(self.spare_loopback && peer.is_loopback()) {
            self.limit_alerts.report(Limit::ConnectionsPerPeer);
            return Err(AdmissionError::PeerLimitReached);
        }
        if table.taken.len() >= self.all {
            self.limit_alerts.report(Limit::Connections);
            if !table.cut_longest_silent() {
                return Err(AdmissionError::LimitReached);
            }
        }
        if table.new.len() >= self.new {
            self.limit_alerts.report(Limit::NewConnections);
            table.cut_of_most();
        }
        let number = table.next;
        table.next += 1;
        table.give(number, party);
        let cut = CancellationToken::new();
        table.new.insert(number, Waiting { peer, cut: cut.clone() });
        drop(table);
        Ok(ConnectionPermit {
            limiter: self.clone(),
            number,
            peer,
            address: address.to_canonical(),
            cut,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No panic is possible while the lock is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The number of connections of a party.
    fn of(&self, party: &Arc<Party>) -> usize {
        self.by_party.get(party).copied().unwrap_or_default()
    }

    /// Assigns a connection to a party.
    fn give(&mut self, number: u64, party: Arc<Party>) {
        self.free(number);
        *self.by_party.entry(party.clone()).or_default() += 1;
        self.taken.insert(number, party);
    }

    /// Closes the connection that has been without a call for the longest time, if there is one.
    fn cut_longest_silent(&mut self) -> bool {
        let longest = self.silent.pop_first().or_else(|| self.new.pop_first());
        let Some((number, waiting)) = longest else {
            return false;
        };
        self.end(number, &waiting);
        true
    }

    /// Closes the oldest new connection of the peer that has the most of them.
    fn cut_of_most(&mut self) {
        let mut counts: HashMap<Peer, usize> = HashMap::new();
        for waiting in self.new.values() {
            *counts.entry(waiting.peer).or_default() += 1;
        }
        let max = counts.values().copied().max().unwrap_or_default();
        let oldest = self.new.iter().find(|(_, waiting)| counts[&waiting.peer] == max);
        let Some(number) = oldest.map(|(number, _)| *number) else {
            return;
        };
        if let Some(waiting) = self.new.remove(&number) {
            self.end(number, &waiting);
        }
    }

    /// Returns the permit and cancels the task of the connection.
    fn end(&mut self, number: u64, waiting: &Waiting) {
        waiting.cut.cancel();
        self.free(number);
    }

    /// Idempotent.
    fn free(&mut self, number: u64) {
        let Some(party) = self.taken.remove(&number) else {
            return;
        };
        if let Some(count) = self.by_party.get_mut(&party) {
            *count -= 1;
            if *count == 0 {
                self.by_party.remove(&party);
            }
        }
    }
}

impl ConnectionPermit {
    /// The origin of the connection.
    pub(crate) const fn peer(&self) -> Peer {
        self.peer
    }

    /// Assigns the connection to the client that has presented a certificate.
    ///
    /// # Errors
    /// If the client has reached its limit.
    pub(crate) fn is_of(&self, caller: &Caller) -> Result<(), AdmissionError> {
        if self.limiter.spare_loopback && self.peer.is_loopback() {
            return Ok(());
        }
        let mut table = self.limiter.table();
        // A stranger stays assigned to its address, and a closed connection has no permit any more.
        if caller.standing == Standing::Stranger || !table.taken.contains_key(&self.number) {
            return Ok(());
        }
        if table.of(&caller.party) >= self.limiter.of_a_peer {
            self.limiter.limit_alerts.report(Limit::ConnectionsPerPeer);
            return Err(AdmissionError::PeerLimitReached);
        }
        table.give(self.number, caller.party.clone());
        Ok(())
    }

    /// The address itself; a peer may have several.
    pub(crate) const fn address(&self) -> IpAddr {
        self.address
    }

    /// The client has sent the HTTP/2 preface.
    pub(crate) fn spoke(&self) {
        let mut table = self.limiter.table();
        if let Some(waiting) = table.new.remove(&self.number) {
            table.silent.insert(self.number, waiting);
        }
    }

    /// The client has made a call.
    pub(crate) fn called(&self) {
        let mut table = self.limiter.table();
        table.new.remove(&self.number);
        table.silent.remove(&self.number);
    }

    /// Completes when the connection must be closed for another one. Cancellation safe.
    pub(crate) fn cut(&self) -> WaitForCancellationFuture<'_> {
        self.cut.cancelled()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut table = self.limiter.table();
        table.new.remove(&self.number);
        table.silent.remove(&self.number);
        table.free(self.number);
        if table.taken.is_empty() {
            drop(table);
            self.limiter.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::caller::CallerCertificates;

    fn limiter(all: usize, of_a_peer: Option<usize>, new: usize) -> Arc<ConnectionLimiter> {
        let config = ListenerConfig {
            max_connections: all,
            max_connections_per_peer: of_a_peer,
            max_new_connections: new,
            ..ListenerConfig::default()
        };
        ConnectionLimiter::new(&config, Arc::new(LimitAlerts::new(&config)))
    }

    fn from(address: &str) -> IpAddr {
        address.parse().expect("an address")
    }

    fn calling(limiter: &Arc<ConnectionLimiter>, address: &str) -> ConnectionPermit {
        let permit = limiter.take(from(address)).expect("a permit");
        permit.spoke();
        permit.called();
        permit
    }

    fn is_cut(permit: &ConnectionPermit) -> bool {
        permit.cut.is_cancelled()
    }

    #[test]
    fn a_peer_has_so_many_and_others_theirs() {
        let limiter = limiter(10, Some(2), 10);
        let (first, _second) = (calling(&limiter, "192.0.2.1"), calling(&limiter, "::ffff:192.0.2.1"));
        assert_eq!(
            limiter.take(from("192.0.2.1")).unwrap_err(),
            AdmissionError::PeerLimitReached
        );
        let _other = calling(&limiter, "192.0.2.2");
        drop(first);
        let _again = calling(&limiter, "192.0.2.1");
        assert_eq!(
            limiter.take(from("192.0.2.1")).unwrap_err(),
            AdmissionError::PeerLimitReached
        );
    }

    #[test]
    fn nodes_behind_one_address_have_seats_of_their_own() {
        let limiter = limiter(10, Some(2), 10);
        let node = |name: &'static [u8]| {
            let shown = CallerCertificates([CertificateDer::from(name)].into());
            Caller::showing(&shown, Standing::Member, Peer::of(from("192.0.2.1")))
        };
        let shown = |name| {
            let permit = calling(&limiter, "192.0.2.1");
            let taken = permit.is_of(&node(name));
            (permit, taken)
        };
        let many = [b"1", b"2", b"3", b"4"].map(|name| shown(name));
        assert!(many.iter().all(|(_, taken)| taken.is_ok()));
        // One client has the same limit as an address.
        let second = shown(b"1");
        assert!(second.1.is_ok());
        assert_eq!(shown(b"1").1, Err(AdmissionError::PeerLimitReached));
        // Clients without a certificate share the limit of their address.
        let _strangers = [calling(&limiter, "192.0.2.1"), calling(&limiter, "192.0.2.1")];
        assert_eq!(
            limiter.take(from("192.0.2.1")).unwrap_err(),
            AdmissionError::PeerLimitReached
        );
        drop((many, second, _strangers));
        let table = limiter.table();
        assert_eq!((table.taken.len(), table.by_party.len()), (0, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let limiter = limiter(10, Some(1), 10);
        let _one = calling(&limiter, "2001:db8::1");
        assert_eq!(
            limiter.take(from("2001:db8::ffff:0:0:2")).unwrap_err(),
            AdmissionError::PeerLimitReached
        );
        let _other = calling(&limiter, "2001:db8:0:1::1");
    }

    #[test]
    fn a_quarter_is_one_peers_and_loopback_is_spared_unless_said_otherwise() {
        let by_default = limiter(8, None, 8);
        let _two = [calling(&by_default, "192.0.2.1"), calling(&by_default, "192.0.2.1")];
        assert_eq!(
            by_default.take(from("192.0.2.1")).unwrap_err(),
            AdmissionError::PeerLimitReached
        );
        let _four: Vec<_> = (0..4).map(|_| calling(&by_default, "127.0.0.1")).collect();
        let said = limiter(8, Some(1), 8);
        let _one = calling(&said, "127.0.0.1");
        assert_eq!(
            said.take(from("127.0.0.1")).unwrap_err(),
            AdmissionError::PeerLimitReached
        );
    }

    #[test]
    fn of_too_many_new_ones_the_oldest_of_whoever_has_most_is_cut() {
        let limiter = limiter(100, Some(100), 4);
        let honest = limiter.take(from("192.0.2.1")).expect("a permit");
        let mut hanging: Vec<ConnectionPermit> = (0..20)
            .map(|_| limiter.take(from("192.0.2.66")).expect("a permit"))
            .collect();
        assert!(!is_cut(&honest), "it is the oldest, and not one of many");
        let cut = hanging.iter().filter(|permit| is_cut(permit)).count();
        assert_eq!(cut, 17, "three are left beside the honest one");
        assert!(
            hanging.drain(..17).all(|permit| is_cut(&permit)),
            "the oldest went first"
        );
        honest.spoke();
        // After the preface it is not a new connection any more.
        let _more: Vec<ConnectionPermit> = (0..20)
            .map(|_| limiter.take(from("192.0.2.67")).expect("a permit"))
            .collect();
        assert!(!is_cut(&honest));
    }

    #[test]
    fn when_all_seats_are_taken_the_silent_make_room_and_those_with_calls_do_not() {
        let limiter = limiter(3, Some(3), 3);
        let busy = calling(&limiter, "192.0.2.1");
        let silent = limiter.take(from("192.0.2.2")).expect("a permit");
        silent.spoke();
        let new = limiter.take(from("192.0.2.3")).expect("a permit");
        let next = calling(&limiter, "192.0.2.4");
        assert!(is_cut(&silent) && !is_cut(&new) && !is_cut(&busy));
        let last = calling(&limiter, "192.0.2.5");
        assert!(is_cut(&new));
        assert_eq!(
            limiter.take(from("192.0.2.6")).unwrap_err(),
            AdmissionError::LimitReached
        );
        // Connections that were closed return only their own permits.
        drop((silent, new));
        assert_eq!(
            limiter.take(from("192.0.2.6")).unwrap_err(),
            AdmissionError::LimitReached
        );
        drop((busy, next, last));
        let table = limiter.table();
        assert_eq!((table.taken.len(), table.by_party.len()), (0, 0));
        assert!(table.new.is_empty() && table.silent.is_empty());
    }
}
