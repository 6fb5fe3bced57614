//! The version of the forwarding protocol between instances, so that two consecutive releases can work together.
//!
//! The sender states its version. The receiver accepts its own version and the previous one. It refuses any other
//! before anything runs, because the headers may have another meaning, and states the newest version that it
//! supports. A sender that supports that version uses it for this leader from then on, and sends the call again. So
//! instances can be upgraded and downgraded in any order, as long as no two of them are more than one version apart.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use http::HeaderValue;

/// The reason of a refusal because of the version.
pub(crate) const REFUSED: &str = "version";

/// A version. 0 is that of builds that do not state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ForwardProtocol(u16);

impl ForwardProtocol {
    /// The version of this build. It is incremented when the headers change their meaning, at most once for each
    /// release.
    ///
    /// 1: as 0, but stated.
    pub(crate) const OURS: Self = Self(1);
    /// The oldest version that this build supports.
    pub(crate) const OLDEST: Self = Self(Self::OURS.0 - 1);

    /// Parses the header; `None` if it cannot be read, which may be a future version.
    pub(crate) fn read(said: Option<&HeaderValue>) -> Option<Self> {
        let Some(said) = said else { return Some(Self(0)) };
        let text = said.to_str().ok()?;
        // `parse` would accept a plus sign.
        text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
        text.parse().ok().map(Self)
    }

    /// The header value; `None` for the version that is not stated.
    pub(crate) fn to_header(self) -> Option<HeaderValue> {
        (self.0 > 0).then(|| HeaderValue::from(self.0))
    }

    /// Whether a call with this version is accepted. `None` is a version that cannot be read.
    pub(crate) fn check(said: Option<Self>) -> Result<(), Unsupported> {
        match said {
            Some(said) if (Self::OLDEST..=Self::OURS).contains(&said) => Ok(()),
            Some(said) if said < Self::OURS => Err(Unsupported::TooOld(said)),
            said => Err(Unsupported::TooNew(said)),
        }
    }
}

/// Why the version of a forwarded call is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsupported {
    /// The instance that forwarded it is too old.
    TooOld(ForwardProtocol),
    /// This instance is too old. `None` if the version cannot be read.
    TooNew(Option<ForwardProtocol>),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (oldest, ours) = (ForwardProtocol::OLDEST, ForwardProtocol::OURS);
        match self {
            Self::TooOld(said) => write!(
                f,
                "unsupported forwarding protocol version {said} (supported: {oldest} to {ours}); upgrade the instance \
                 that forwarded the call, one version at a time"
            ),
            Self::TooNew(said) => {
                f.write_str("unsupported forwarding protocol version ")?;
                match said {
                    Some(said) => said.fmt(f)?,
                    None => f.write_str("unknown")?,
                }
                write!(
                    f,
                    " (supported: {oldest} to {ours}); upgrade this instance, one version at a time"
                )
            }
        }
    }
}

impl fmt::Display for ForwardProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version that is negotiated with one leader.
#[derive(Debug)]
pub(crate) struct Negotiated {
    version: AtomicU16,
    logged_unsupported: AtomicBool,
}

impl Default for Negotiated {
    fn default() -> Self {
        Self {
            version: AtomicU16::new(ForwardProtocol::OURS.0),
            logged_unsupported: AtomicBool::new(false),
        }
    }
}

/// The result of a leader's refusal of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Negotiation {
    /// An older version is used from now on.
    Downgraded(ForwardProtocol),
    /// Another call has already negotiated the version.
    AlreadyKnown,
    /// There is no common version. `first` is whether this is the first such refusal.
    Incompatible { first: bool },
}

impl Negotiated {
    /// The version for the next call.
    pub(crate) fn version(&self) -> ForwardProtocol {
        ForwardProtocol(self.version.load(Ordering::Relaxed))
    }

    /// The leader has refused version `said`; `theirs` is the newest that it supports.
    pub(crate) fn refused(&self, said: ForwardProtocol, theirs: Option<ForwardProtocol>) -> Negotiation {
        match theirs {
            Some(theirs) if theirs >= ForwardProtocol::OLDEST && theirs < said => {
                if self.version.fetch_min(theirs.0, Ordering::Relaxed) > theirs.0 {
                    Negotiation::Downgraded(theirs)
                } else {
                    Negotiation::AlreadyKnown
                }
            }
            _ => Negotiation::Incompatible {
                first: !self.logged_unsupported.swap(true, Ordering::Relaxed),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<ForwardProtocol> {
        ForwardProtocol::read(Some(&HeaderValue::from_str(text).unwrap()))
    }

    #[test]
    fn who_says_nothing_is_of_before() {
        assert_eq!(ForwardProtocol::read(None), Some(ForwardProtocol(0)));
        assert_eq!(ForwardProtocol(0).to_header(), None);
        let said = ForwardProtocol::OURS.to_header();
        assert_eq!(ForwardProtocol::read(said.as_ref()), Some(ForwardProtocol::OURS));
    }

    #[test]
    fn what_is_no_version_is_one_to_come() {
        for text in ["", "x", "-1", "+1", "1.5", " 1", "70000", "1, 2", &"9".repeat(5_000)] {
            assert_eq!(read(text), None, "{text:?}");
        }
        let bytes = HeaderValue::from_bytes(b"\xff").unwrap();
        assert_eq!(ForwardProtocol::read(Some(&bytes)), None);
    }

    #[test]
    fn the_own_version_and_the_one_before_are_taken() {
        let ours = ForwardProtocol::OURS.0;
        for taken in [ours, ours - 1] {
            assert_eq!(ForwardProtocol::check(Some(ForwardProtocol(taken))), Ok(()));
        }
        let too_old = (0..ours - 1).map(|old| {
            (
                Some(ForwardProtocol(old)),
                "upgrade the instance that forwarded the call",
            )
        });
        let too_new = [Some(ForwardProtocol(ours + 1)), Some(ForwardProtocol(u16::MAX)), None];
        let too_new = too_new.map(|new| (new, "upgrade this instance"));
        for (said, what_to_do) in too_old.chain(too_new) {
            let unsupported = ForwardProtocol::check(said).expect_err("unsupported here").to_string();
            assert!(unsupported.contains(what_to_do), "{unsupported}");
        }
    }

    /// Builds of two consecutive versions, either of which may lead.
    #[test]
    fn two_in_a_row_come_to_terms() {
        let (older, newer) = (ForwardProtocol(ForwardProtocol::OURS.0 - 1), ForwardProtocol::OURS);
        // This build follows an older leader.
        let negotiated = Negotiated::default();
        assert_eq!(negotiated.version(), newer);
        assert_eq!(negotiated.refused(newer, Some(older)), Negotiation::Downgraded(older));
        assert_eq!(negotiated.version(), older);
        assert_eq!(
            negotiated.refused(newer, Some(older)),
            Negotiation::AlreadyKnown,
            "one that was under way"
        );
        // The leader refuses the version that it stated itself.
        assert_eq!(
            negotiated.refused(older, Some(older)),
            Negotiation::Incompatible { first: true }
        );
    }

    #[test]
    fn two_that_are_further_apart_do_not() {
        let negotiated = Negotiated::default();
        for theirs in [Some(ForwardProtocol(ForwardProtocol::OURS.0 + 2)), None] {
            assert!(matches!(
                negotiated.refused(ForwardProtocol::OURS, theirs),
                Negotiation::Incompatible { .. }
            ));
        }
        assert_eq!(
            negotiated.refused(ForwardProtocol::OURS, None),
            Negotiation::Incompatible { first: false }
        );
        assert_eq!(negotiated.version(), ForwardProtocol::OURS);
    }
}
