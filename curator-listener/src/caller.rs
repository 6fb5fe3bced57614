//! The identity of a caller, as far as fair sharing of the listener's resources needs it.
//!
//! It grants no rights: the services authorize calls.

mod certificates;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::HeaderValue;

pub use certificates::CallerCertificates;

/// The origin of a connection. An IPv6 host can use any address of its /64, so a whole /64 is one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer(IpAddr);

impl Peer {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                // The loopback address belongs to no network.
                IpAddr::V6(if v6.is_loopback() { v6 } else { Ipv6Addr::from(network) })
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    pub(crate) const fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

/// The address of the caller, as the instance saw it that accepted the call. It is in the extensions of each call.
/// For a forwarded call it is what the forwarding instance reports, and absent if that instance reports none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerAddress(pub IpAddr);

impl CallerAddress {
    /// Encodes the address as a header for the leader.
    pub(crate) fn to_header(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0.to_string()).ok()
    }

    /// Decodes the header of a forwarding instance; `None` if it is malformed.
    pub(crate) fn from_header(header: &HeaderValue) -> Option<Self> {
        header.to_str().ok()?.parse().ok().map(Self)
    }
}

/// The class of a caller, as far as sharing goes. Earlier variants take precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// A person or their program. There are few, with few calls.
    User,
    /// A node; also every caller without TLS. There are thousands, and all may reconnect at once.
    Member,
    /// A caller that the cluster does not know.
    Stranger,
}

/// The unit of fair sharing. Known callers are identified by their certificates, from any address; strangers by their
/// address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    Shown(CallerCertificates),
    At(Peer),
}

/// The caller of a connection. It is in the extensions of each call.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) standing: Standing,
    pub(crate) party: Arc<Party>,
}

impl Caller {
    /// The caller of a connection without TLS.
    pub(crate) fn at(peer: Peer) -> Self {
        Self {
            standing: Standing::Member,
            party: Arc::new(Party::At(peer)),
        }
    }

    /// The caller of a connection with TLS.
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
