//! The certificates of a caller, and how they are passed to the leader.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;

/// The certificates that the caller has shown, whichever instance the call came in through: in the extensions of each call of
/// a listener with TLS. None if the caller has shown none.
///
/// The caller has proven to have the key of the first one. Nothing else about them has been looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallerCertificates(pub Arc<[CertificateDer<'static>]>);

/// As many of one caller are passed on: its own, and that of its authority.
const MAX_CERTIFICATES: usize = 2;
/// All certificates of one caller together, in bytes. Those of a cluster have a few hundred, and followers send them with each
/// call, so what a stranger shows must not fill the headers of connections that others use as well.
const MAX_CERTIFICATES_SIZE: usize = 8 << 10;

impl CallerCertificates {
    /// The certificates that a client has presented; `None` if they are longer than `MAX_CERTIFICATES_SIZE` together.
    pub(crate) fn of_client(presented: &[CertificateDer<'static>]) -> Option<Self> {
        if presented.iter().map(|certificate| certificate.len()).sum::<usize>() > MAX_CERTIFICATES_SIZE {
            return None;
        }
        let kept = match presented {
            // A truncated chain must not verify: the client's own certificate twice verifies nowhere.
            [own, ..] if presented.len() > MAX_CERTIFICATES => vec![own.clone(); MAX_CERTIFICATES],
            presented => presented.to_vec(),
        };
        Some(Self(kept.into()))
    }

    /// Encodes them as a header for the leader.
    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        let texts: Vec<String> = self
            .0
            .iter()
            .take(MAX_CERTIFICATES)
            .map(|certificate| STANDARD_NO_PAD.encode(certificate))
            .collect();
        (!texts.is_empty()).then(|| HeaderValue::from_str(&texts.join(",")).ok())?
    }

    /// What a forwarder says that the caller has shown; `None` if it cannot be read.
    pub(crate) fn from_header(header: &HeaderValue) -> Option<Self> {
        let certificates: Option<Vec<_>> = header
            .to_str()
            .ok()?
            .split(',')
            .map(|text| Some(CertificateDer::from(STANDARD_NO_PAD.decode(text).ok()?)))
            .collect();
        Some(Self(certificates?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificates(all: &[&'static [u8]]) -> CallerCertificates {
        CallerCertificates(all.iter().map(|der| CertificateDer::from(*der)).collect())
    }

    #[test]
    fn certificates_are_passed_on_as_they_are() {
        for shown in [certificates(&[b"one"]), certificates(&[b"one", b"\x00\xff"])] {
            let header = shown.to_header().expect("some");
            assert_eq!(CallerCertificates::from_header(&header), Some(shown));
        }
        assert_eq!(CallerCertificates::default().to_header(), None);
        let many = certificates(&[b"1", b"2", b"3"]).to_header().expect("some");
        assert_eq!(
            CallerCertificates::from_header(&many).map(|shown| shown.0.len()),
            Some(2)
        );
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        for bad in ["!", "a", "YQ,!"] {
            let header = HeaderValue::from_static(bad);
            assert_eq!(CallerCertificates::from_header(&header), None, "{bad}");
        }
    }
}
