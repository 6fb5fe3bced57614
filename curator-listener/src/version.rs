//! The version of what instances say to each other about a call, so that those of two releases in a row can work together.
//!
//! Whoever forwards says its version. Whoever gets the call takes its own version and the one before, and refuses any other before
//! anything runs, since it cannot know what the marks of the call mean; the refusal says the newest version that it takes. A
//! sender that still knows that one says it from then on to this leader, and sends the call again. So instances can be upgraded,
//! and taken back, in any order, as long as no two of them are more than one version apart.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use http::HeaderValue;

use crate::refusal::Refusal;

/// The word for a refusal because of the version.
pub(crate) const REFUSED: &str = "version";

/// A version. 0 is that of builds that did not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u16);

impl Version {
    /// That of this build. It goes up when the marks of a call change their meaning, and by one a release at most.
    ///
    /// 1: as 0, and says so.
    pub(crate) const OURS: Self = Self(1);
    /// The oldest that this build knows.
    pub(crate) const OLDEST: Self = Self(Self::OURS.0 - 1);

    /// As it is said; `None` if that is no version, which is one that is still to come.
    pub(crate) fn read(said: Option<&HeaderValue>) -> Option<Self> {
        let Some(said) = said else { return Some(Self(0)) };
        let text = said.to_str().ok()?;
        // A plus sign would be read as well.
        text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
        text.parse().ok().map(Self)
    }

    /// As it is to be said; `None` for the version that says nothing.
    pub(crate) fn to_header(self) -> Option<HeaderValue> {
        (self.0 > 0).then(|| HeaderValue::from(self.0))
    }

    /// Why a call that was forwarded in this version is not taken, if it is not.
    pub(crate) fn refusal(said: Option<Self>) -> Option<Refusal> {
        let ours = Self::OURS;
        let message = match said {
            Some(said) if (Self::OLDEST..=ours).contains(&said) => return None,
            Some(said) if said < ours => format!(
                "a call was forwarded in version {said} of what instances say to each other, and this one takes {} and {ours}: \
                 upgrade the instance that it came through, one version at a time",
                Self::OLDEST
            ),
            said => format!(
                "a call was forwarded in version {} of what instances say to each other, and this one takes {} and {ours}: upgrade \
                 this instance, one version at a time",
                said.map_or_else(|| "unknown".to_owned(), |said| said.to_string()),
                Self::OLDEST
            ),
        };
        Some(Refusal::unavailable(message).not_run(REFUSED))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is said to one leader.
#[derive(Debug)]
pub(crate) struct Spoken {
    version: AtomicU16,
    complained: AtomicBool,
}

impl Default for Spoken {
    fn default() -> Self {
        Self {
            version: AtomicU16::new(Version::OURS.0),
            complained: AtomicBool::new(false),
        }
    }
}

/// What follows from a leader's refusal of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learnt {
    /// From now on another version is said.
    Speaks(Version),
    /// Another call has found that out already, or said it meanwhile.
    Known,
    /// There is none that both know. `first` is whether this is news.
    Apart { first: bool },
}

impl Spoken {
    /// The version of the next call.
    pub(crate) fn version(&self) -> Version {
        Version(self.version.load(Ordering::Relaxed))
    }

    /// The leader takes no newer version than this one, and has refused a call in version `said`.
    pub(crate) fn refused(&self, said: Version, theirs: Option<Version>) -> Learnt {
        match theirs {
            Some(theirs) if theirs >= Version::OLDEST && theirs < said => {
                match self.version.fetch_min(theirs.0, Ordering::Relaxed) > theirs.0 {
                    true => Learnt::Speaks(theirs),
                    false => Learnt::Known,
                }
            }
            _ => Learnt::Apart {
                first: !self.complained.swap(true, Ordering::Relaxed),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Version> {
        Version::read(Some(&HeaderValue::from_str(text).unwrap()))
    }

    #[test]
    fn who_says_nothing_is_of_before() {
        assert_eq!(Version::read(None), Some(Version(0)));
        assert_eq!(Version(0).to_header(), None);
        let said = Version::OURS.to_header();
        assert_eq!(Version::read(said.as_ref()), Some(Version::OURS));
    }

    #[test]
    fn what_is_no_version_is_one_to_come() {
        for text in ["", "x", "-1", "+1", "1.5", " 1", "70000", "1, 2", &"9".repeat(5_000)] {
            assert_eq!(read(text), None, "{text:?}");
        }
        let bytes = HeaderValue::from_bytes(b"\xff").unwrap();
        assert_eq!(Version::read(Some(&bytes)), None);
    }

    #[test]
    fn the_own_version_and_the_one_before_are_taken() {
        let ours = Version::OURS.0;
        for taken in [ours, ours - 1] {
            assert!(Version::refusal(Some(Version(taken))).is_none());
        }
        let too_old = (0..ours - 1).map(|old| (Some(Version(old)), "upgrade the instance that it came through"));
        let too_new = [Some(Version(ours + 1)), Some(Version(u16::MAX)), None];
        let too_new = too_new.map(|new| (new, "upgrade this instance"));
        for (said, what_to_do) in too_old.chain(too_new) {
            let refusal = Version::refusal(said).expect("unknown here");
            assert_eq!(refusal.not_run, Some(REFUSED), "it may be sent again");
            assert_eq!(refusal.code, tonic::Code::Unavailable);
            assert!(refusal.message.contains(what_to_do), "{}", refusal.message);
        }
    }

    /// Builds of two versions in a row, either of which may lead.
    #[test]
    fn two_in_a_row_come_to_terms() {
        let (older, newer) = (Version(Version::OURS.0 - 1), Version::OURS);
        // Ours follows one that is older, and takes no more than that.
        let spoken = Spoken::default();
        assert_eq!(spoken.version(), newer);
        assert_eq!(spoken.refused(newer, Some(older)), Learnt::Speaks(older));
        assert_eq!(spoken.version(), older);
        assert_eq!(
            spoken.refused(newer, Some(older)),
            Learnt::Known,
            "one that was under way"
        );
        // It refuses that as well, against its word.
        assert_eq!(spoken.refused(older, Some(older)), Learnt::Apart { first: true });
    }

    #[test]
    fn two_that_are_further_apart_do_not() {
        let spoken = Spoken::default();
        for theirs in [Some(Version(Version::OURS.0 + 2)), None] {
            assert!(matches!(spoken.refused(Version::OURS, theirs), Learnt::Apart { .. }));
        }
        assert_eq!(spoken.refused(Version::OURS, None), Learnt::Apart { first: false });
        assert_eq!(spoken.version(), Version::OURS);
    }
}
