//! The metadata between instances, and the metadata for clients that ask for the leader.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::caller::CallerAddress;
use crate::protocol::ForwardProtocol;
use crate::role::{Leader, TermId};

/// The prefix of all these headers. Those of a client are never forwarded.
const PREFIX: &str = "curator-";
/// On a forwarded call: the lock revision of the term that the sender follows, a slash, and the percent-encoded lock
/// key.
const FORWARDED_TERM: HeaderName = HeaderName::from_static("curator-forwarded-term");
/// On a forwarded call: the forwarding protocol version. On its refusal: the newest supported version.
const FORWARDED_VERSION: HeaderName = HeaderName::from_static("curator-forwarded-version");
/// On a forwarded call: the process that forwards it, so that it recognizes its own calls.
const FORWARDED_BY: HeaderName = HeaderName::from_static("curator-forwarded-by");
/// On a forwarded call: the `:authority` of the caller.
const FORWARDED_AUTHORITY: HeaderName = HeaderName::from_static("curator-forwarded-authority");
/// On a forwarded call: the caller's certificates, as reported by the sender.
const FORWARDED_CERTIFICATE: HeaderName = HeaderName::from_static("curator-forwarded-certificate");
/// On a forwarded call: the caller's address, as reported by the sender.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("curator-forwarded-for");
/// On an answer to a forwarded call: nothing of it ran, and it may be dispatched again. The value is the reason.
const NOT_RUN: HeaderName = HeaderName::from_static("curator-not-run");
/// On a client's call: refuse it with the leader's address instead of forwarding it.
const NO_FORWARD: HeaderName = HeaderName::from_static("curator-no-forward");
/// On a refusal: the node id of the leader, if known.
pub(crate) const LEADER_ID: HeaderName = HeaderName::from_static("curator-leader-id");
/// On a refusal: the address of the leader, if known.
pub(crate) const LEADER_ADDRESS: HeaderName = HeaderName::from_static("curator-leader-address");

/// The forwarding headers of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardingHeaders {
    /// Set if the call has been forwarded. A term that cannot be read matches none.
    pub(crate) hop: Option<Hop>,
    /// The caller does not want the call forwarded.
    pub(crate) no_forward: bool,
}

/// How a call was forwarded. It is not forwarded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The term as the sender wrote it.
    term: HeaderValue,
    /// The protocol version; `None` if it cannot be read.
    version: Option<ForwardProtocol>,
    by: Option<HeaderValue>,
    certificate: Option<HeaderValue>,
    address: Option<CallerAddress>,
}

impl Hop {
    /// Whether the call was sent for this term.
    pub(crate) fn is_for(&self, term: &TermHeader) -> bool {
        self.term == term.0
    }

    /// The protocol version; `None` if it cannot be read.
    pub(crate) const fn version(&self) -> Option<ForwardProtocol> {
        self.version
    }

    /// The certificates that the caller presented, as reported by the forwarding instance.
    pub(crate) const fn certificate(&self) -> Option<&HeaderValue> {
        self.certificate.as_ref()
    }

    /// The caller's address, as reported by the forwarding instance.
    pub(crate) const fn address(&self) -> Option<CallerAddress> {
        self.address
    }

    /// Whether the process with this id sent the call.
    pub(crate) fn is_from(&self, instance: &HeaderValue) -> bool {
        self.by.as_ref() == Some(instance)
    }
}

/// A term as a header value. Made once for each term, not for each call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TermHeader(HeaderValue);

impl TermHeader {
    pub(crate) fn new(term: &TermId) -> Self {
        let mut text = format!("{}/", term.lock_revision);
        for &byte in term.lock_key.as_bytes() {
            match byte {
                b'%' | 0..=0x20 | 0x7f.. => text.push_str(&format!("%{byte:02x}")),
                _ => text.push(char::from(byte)),
            }
        }
        // The text is printable ASCII, so this cannot fail.
        Self(HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("none")))
    }
}

impl ForwardingHeaders {
    /// Reads and removes all headers with our prefix. HTTP/2 has already rejected hop-by-hop headers.
    pub(crate) fn take(headers: &mut HeaderMap) -> Self {
        // Most calls have none, which costs one comparison for each name.
        let ours: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with(PREFIX))
            .cloned()
            .collect();
        if ours.is_empty() {
            return Self::default();
        }
        let forwarding = Self {
            hop: headers.get(FORWARDED_TERM).map(|term| Hop {
                term: term.clone(),
                version: ForwardProtocol::read(headers.get(FORWARDED_VERSION)),
                by: headers.get(FORWARDED_BY).cloned(),
                certificate: headers.get(FORWARDED_CERTIFICATE).cloned(),
                address: headers.get(FORWARDED_FOR).and_then(CallerAddress::from_header),
            }),
            no_forward: headers.contains_key(NO_FORWARD),
        };
        for name in ours {
            headers.remove(name);
        }
        forwarding
    }
}

/// Adds the forwarding headers to a call.
pub(crate) fn mark_forwarded(
    headers: &mut HeaderMap,
    version: ForwardProtocol,
    term: &TermHeader,
    by: &HeaderValue,
    authority: Option<&HeaderValue>,
    certificate: Option<&HeaderValue>,
    address: Option<CallerAddress>,
) {
    if let Some(version) = version.to_header() {
        headers.insert(FORWARDED_VERSION, version);
    }
    headers.insert(FORWARDED_TERM, term.0.clone());
    headers.insert(FORWARDED_BY, by.clone());
    if let Some(authority) = authority {
        headers.insert(FORWARDED_AUTHORITY, authority.clone());
    }
    if let Some(certificate) = certificate {
        headers.insert(FORWARDED_CERTIFICATE, certificate.clone());
    }
    if let Some(address) = address.and_then(CallerAddress::to_header) {
        headers.insert(FORWARDED_FOR, address);
    }
}

/// The reason of a refusal if the sender is not a member of the consensus.
pub(crate) const NO_MEMBER: &str = "no-member";

/// Adds to an answer that nothing ran, the reason, and the newest supported protocol version.
pub(crate) fn mark_not_run(headers: &mut HeaderMap, why: &'static str) {
    headers.insert(NOT_RUN, HeaderValue::from_static(why));
    if let Some(version) = ForwardProtocol::OURS.to_header() {
        headers.insert(FORWARDED_VERSION, version);
    }
}

/// An answer that says that nothing ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotRun {
    /// The reason.
    pub(crate) why: String,
    /// The newest version that the leader supports; `None` if it cannot be read.
    pub(crate) takes: Option<ForwardProtocol>,
}

/// Reads and removes the headers that say that nothing ran.
pub(crate) fn take_not_run(headers: &mut HeaderMap) -> Option<NotRun> {
    let version = headers.remove(FORWARDED_VERSION);
    let why = headers.remove(NOT_RUN)?;
    Some(NotRun {
        why: why.to_str().unwrap_or("for a reason that cannot be read").to_owned(),
        takes: ForwardProtocol::read(version.as_ref()),
    })
}

/// Adds the leader's node id and address to a refusal.
pub(crate) fn hint(headers: &mut HeaderMap, leader: &Leader) {
    // Values that no header can hold are left out; the message contains them.
    if let Ok(id) = HeaderValue::from_str(&leader.node_id) {
        headers.insert(LEADER_ID, id);
    }
    if let Some(Ok(address)) = leader.addresses.first().map(|address| HeaderValue::from_str(address)) {
        headers.insert(LEADER_ADDRESS, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(key: &str, revision: i64) -> TermId {
        TermId {
            lock_key: key.into(),
            lock_revision: revision,
        }
    }

    #[test]
    fn a_forwarded_call_names_its_term_and_sender() {
        let by = HeaderValue::from_static("me");
        let mut headers = HeaderMap::new();
        mark_forwarded(
            &mut headers,
            ForwardProtocol::OURS,
            &TermHeader::new(&term("/leader/a b", 7)),
            &by,
            Some(&by),
            Some(&by),
            Some(CallerAddress([192, 0, 2, 7].into())),
        );
        let hop = ForwardingHeaders::take(&mut headers).hop.expect("marked");
        assert!(hop.is_for(&TermHeader::new(&term("/leader/a b", 7))));
        assert!(!hop.is_for(&TermHeader::new(&term("/leader/a b", 8))));
        assert!(!hop.is_for(&TermHeader::new(&term("/leader/a%20b", 7))));
        assert!(hop.is_from(&by));
        assert_eq!(hop.version(), Some(ForwardProtocol::OURS));
        assert_eq!(hop.certificate(), Some(&by));
        assert_eq!(hop.address(), Some(CallerAddress([192, 0, 2, 7].into())));
        assert!(!hop.is_from(&HeaderValue::from_static("you")));
    }

    #[test]
    fn what_a_client_says_in_our_name_goes_no_further() {
        let mut headers = HeaderMap::new();
        for name in ["curator-forwarded-term", "curator-not-run", "curator-anything"] {
            headers.append(name, HeaderValue::from_static("x"));
            headers.append(name, HeaderValue::from_static("y"));
        }
        for name in ["te", "x-mine", "x-mine-bin", "curators"] {
            headers.append(name, HeaderValue::from_static("x"));
            headers.append(name, HeaderValue::from_static("y"));
        }
        ForwardingHeaders::take(&mut headers);
        assert_eq!(headers.keys_len(), 4, "{headers:?}");
        assert_eq!(headers.len(), 8, "{headers:?}");
    }

    #[test]
    fn a_refusal_says_which_version_is_taken() {
        let mut headers = HeaderMap::new();
        mark_not_run(&mut headers, "other-term");
        let (why, takes) = ("other-term".to_owned(), Some(ForwardProtocol::OURS));
        assert_eq!(take_not_run(&mut headers), Some(NotRun { why, takes }));
        assert!(headers.is_empty(), "{headers:?}");
        assert_eq!(take_not_run(&mut headers), None);
    }

    #[test]
    fn a_term_that_is_garbage_matches_none() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_TERM, HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        let hop = ForwardingHeaders::take(&mut headers).hop.expect("marked");
        assert!(!hop.is_for(&TermHeader::new(&term("\u{ff}\u{fe}", 0))));
    }
}
