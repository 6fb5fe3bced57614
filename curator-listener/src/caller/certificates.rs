//! The certificates of a caller, and how they are passed to the leader.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;

/// The certificates that the caller presented, to this instance or to the one that forwarded the call. They are in
/// the extensions of each call of a listener with TLS. Empty if the caller presented none.
///
/// The caller has proven possession of the key of the first certificate. Nothing else is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallerCertificates(pub Arc<[CertificateDer<'static>]>);

/// The maximum number of certificates of one caller: its own, and that of its authority.
const MAX_CERTIFICATES: usize = 2;
/// The maximum size of all certificates of one caller, in bytes. Certificates of a cluster have a few hundred bytes.
/// Followers send them with each call, so a stranger's certificates must not fill the headers of shared connections.
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

    /// Decodes the header of a forwarding instance; `None` if it is malformed.
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
