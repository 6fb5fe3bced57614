//! Who is at the other end of a connection, as far as sharing goes: with whom it takes turns, and who goes first.
//!
//! That gives nobody a right: what a caller may do is for the services to say.

mod certificates;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::HeaderValue;

pub use certificates::CallerCertificates;

/// Where a connection comes from. An IPv6 host has a whole /64 to choose addresses from, so all of that is one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer(IpAddr);

impl Peer {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                // The loopback address is not that of a network.
                IpAddr::V6(if v6.is_loopback() { v6 } else { Ipv6Addr::from(network) })
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    pub(crate) const fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

/// The address that a call came from, at the instance that took it from its caller: in the extensions of each call. Of a call that was
/// forwarded it is what that instance says, and missing if it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerAddress(pub IpAddr);

impl CallerAddress {
    /// For the leader, in a header.
    pub(crate) fn to_header(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0.to_string()).ok()
    }

    /// What a forwarder says; `None` if it cannot be read.
    pub(crate) fn from_header(header: &HeaderValue) -> Option<Self> {
        header.to_str().ok()?.parse().ok().map(Self)
    }
}

/// What a caller is to the cluster, as far as sharing goes. Whoever comes first here goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// A person, or a program of hers: few of them, with little to ask.
    User,
    /// A node; anybody, if callers show no certificates. There are thousands of them, and all come back at once.
    Member,
    /// Nobody in particular.
    Stranger,
}

/// Those who share what one caller gets: known ones by what they have shown, wherever they are, and strangers by their address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    Shown(CallerCertificates),
    At(Peer),
}

/// The caller behind a connection: in the extensions of each call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) standing: Standing,
    pub(crate) party: Arc<Party>,
}

impl Caller {
    /// Of a connection without TLS.
    pub(crate) fn at(peer: Peer) -> Self {
        Self {
            standing: Standing::Member,
            party: Arc::new(Party::At(peer)),
        }
    }

    /// Of one with TLS.
    pub(crate) fn showing(shown: &CallerCertificates, standing: Standing, peer: Peer) -> Self {
        let party = match standing {
            Standing::User | Standing::Member => Party::Shown(shown.clone()),
            Standing::Stranger => Party::At(peer),
        };
        Self {
            standing,
            party: Arc::new(party),
        }
    }
}
