//! The metadata by which instances speak with each other, and with clients that want to know.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::caller::CallerAddress;
use crate::protocol::ForwardProtocol;
use crate::role::{Leader, TermId};

/// All our names begin with this; what a client sends with it goes no further.
const PREFIX: &str = "curator-";
/// On a forwarded call: the revision of the term that the sender follows, a slash, and the lock key percent-encoded.
const FORWARDED_TERM: HeaderName = HeaderName::from_static("curator-forwarded-term");
/// On a forwarded call: the version of these marks. On the refusal of one: the newest that is taken.
const FORWARDED_VERSION: HeaderName = HeaderName::from_static("curator-forwarded-version");
/// On a forwarded call: which process forwards it, so that it knows itself.
const FORWARDED_BY: HeaderName = HeaderName::from_static("curator-forwarded-by");
/// On a forwarded call: the authority that the caller asked for.
const FORWARDED_AUTHORITY: HeaderName = HeaderName::from_static("curator-forwarded-authority");
/// On a forwarded call: the certificates that the caller has shown, by the word of the sender.
const FORWARDED_CERTIFICATE: HeaderName = HeaderName::from_static("curator-forwarded-certificate");
/// On a forwarded call: the address that it came from, by the word of the sender.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("curator-forwarded-for");
/// On an answer to a forwarded call: nothing of it ran, and it may be dispatched again. The value says why.
const NOT_RUN: HeaderName = HeaderName::from_static("curator-not-run");
/// On a client's call: rather refuse it, and say where the leader is, than forward it.
const NO_FORWARD: HeaderName = HeaderName::from_static("curator-no-forward");
/// On a refusal: the node that leads, if it is known.
pub(crate) const LEADER_ID: HeaderName = HeaderName::from_static("curator-leader-id");
/// On a refusal: where the leader is, if it is known.
pub(crate) const LEADER_ADDRESS: HeaderName = HeaderName::from_static("curator-leader-address");

/// What a call says of how it came here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardingHeaders {
    /// It has been forwarded: for this term, by this process. Unreadable terms match none.
    pub(crate) hop: Option<Hop>,
    /// The caller does not want it forwarded.
    pub(crate) no_forward: bool,
}

/// A call that has been forwarded once, and will not be again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The term as it was sent.
    term: HeaderValue,
    /// That of the marks; `None` if it cannot be read.
    version: Option<ForwardProtocol>,
    by: Option<HeaderValue>,
    certificate: Option<HeaderValue>,
    address: Option<CallerAddress>,
}

impl Hop {
    /// Whether it was meant for this term.
    pub(crate) fn is_for(&self, term: &TermHeader) -> bool {
        self.term == term.0
    }

    /// The version in which it was forwarded; `None` if that cannot be read.
    pub(crate) const fn version(&self) -> Option<ForwardProtocol> {
        self.version
    }

    /// What the caller has shown to the instance that forwards, by the word of that instance.
    pub(crate) const fn certificate(&self) -> Option<&HeaderValue> {
        self.certificate.as_ref()
    }

    /// The address that the call came from, by the word of the instance that forwards.
    pub(crate) const fn address(&self) -> Option<CallerAddress> {
        self.address
    }

    /// Whether the process with this id sent it.
    pub(crate) fn is_from(&self, instance: &HeaderValue) -> bool {
        self.by.as_ref() == Some(instance)
    }
}

/// A term as it stands in the metadata. Made once a term, not once a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TermHeader(HeaderValue);

impl TermHeader {
    pub(crate) fn new(term: &TermId) -> Self {
        let mut text = format!("{}/", term.lock_revision);
        for byte in term.lock_key.bytes() {
            match byte {
                b'%' | 0..=0x20 | 0x7f.. => text.push_str(&format!("%{byte:02x}")),
                _ => text.push(char::from(byte)),
            }
        }
        // Printable ASCII only, as has just been made sure of.
        Self(HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("none")))
    }
}

impl ForwardingHeaders {
    /// Reads what a call says, and takes everything of ours off it before it goes further. Of what belongs to one hop HTTP/2
    /// has let nothing in.
    pub(crate) fn take(headers: &mut HeaderMap) -> Self {
        // Most calls say nothing, which costs a look at each name and no more.
        let ours: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with(PREFIX))
            .cloned()
            .collect();
        if ours.is_empty() {
            return Self::default();
        }
        let marks = Self {
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
        marks
    }
}

/// ForwardingHeaders a call as forwarded.
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

/// The word for a refusal because the one that forwards may not.
pub(crate) const NO_MEMBER: &str = "no-member";

/// Says on an answer that nothing ran, why, and which version is taken here.
pub(crate) fn mark_not_run(headers: &mut HeaderMap, why: &'static str) {
    headers.insert(NOT_RUN, HeaderValue::from_static(why));
    if let Some(version) = ForwardProtocol::OURS.to_header() {
        headers.insert(FORWARDED_VERSION, version);
    }
}

/// What an answer says that nothing ran for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotRun {
    /// Why, in a word.
    pub(crate) why: String,
    /// The newest version that the sender takes; `None` if it cannot be read.
    pub(crate) takes: Option<ForwardProtocol>,
}

/// Why nothing ran, if an answer says so; the marks are taken off, for they are between instances.
pub(crate) fn take_not_run(headers: &mut HeaderMap) -> Option<NotRun> {
    let version = headers.remove(FORWARDED_VERSION);
    let why = headers.remove(NOT_RUN)?;
    Some(NotRun {
        why: why.to_str().unwrap_or("for a reason that cannot be read").to_owned(),
        takes: ForwardProtocol::read(version.as_ref()),
    })
}

/// Says on a refusal who leads and where.
pub(crate) fn hint(headers: &mut HeaderMap, leader: &Leader) {
    // What cannot be put into a header is left out of it; the message has it in any case.
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
