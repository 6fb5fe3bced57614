//! The value of a challenge key: plain text, so that an operator can read it with `etcdctl`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use crate::store::{LeaseId, Revision};

/// The version of the format.
const VERSION: &str = "1";

/// The value of a candidate's challenge key.
///
/// ```
/// use curator_election::{ChallengeRecord, ChallengeState};
///
/// let record: ChallengeRecord = "1 limit_ms=1000 process=5f3a sequence=0 clear".parse()?;
/// assert_eq!((record.limit.as_secs(), record.state), (1, ChallengeState::Clear));
/// # Ok::<(), curator_election::RecordError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeRecord {
    /// The failover limit of the candidate that owns the key.
    pub limit: Duration,
    /// A random number of the process that owns the key.
    pub process: String,
    /// The number of refutations.
    pub sequence: u64,
    /// Whether the candidate is challenged.
    pub state: ChallengeState,
}

/// The lock key and the challenge key of a candidate, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The revision of the store.
    pub revision: Revision,
    /// The create revision of the lock key; `None` if it does not exist.
    pub created: Option<Revision>,
    /// The challenge key; `None` if it does not exist.
    pub record: Option<StoredRecord>,
}

/// A challenge key, as found in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The value, usually an encoded [`ChallengeRecord`].
    pub value: Bytes,
    /// The revision of the last change of the key.
    pub mod_revision: Revision,
}

/// Whether a candidate is challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeState {
    /// Nobody suspects the candidate.
    Clear,
    /// The candidate with this lease suspects it.
    Challenged {
        /// The lease of the challenger.
        by: LeaseId,
    },
}

/// A value that is not a challenge record of a known version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a challenge record of version {VERSION}: {text:?}")]
pub struct RecordError {
    /// The beginning of the value.
    pub text: String,
}

impl ChallengeRecord {
    /// Decodes the value of a challenge key. Any client of the store may have written it.
    ///
    /// # Errors
    /// If it is not a record of a known version.
    pub fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let text = String::from_utf8_lossy(value);
        text.parse()
    }

    /// The record with another state.
    #[must_use]
    pub(crate) fn with_state(&self, state: ChallengeState) -> Self {
        Self { state, ..self.clone() }
    }
}

impl fmt::Display for ChallengeRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit_ms, process, sequence) = (self.limit.as_millis(), &self.process, self.sequence);
        write!(
            f,
            "{VERSION} limit_ms={limit_ms} process={process} sequence={sequence} "
        )?;
        match self.state {
            ChallengeState::Clear => f.write_str("clear"),
            ChallengeState::Challenged { by } => write!(f, "challenged_by={by}"),
        }
    }
}

impl FromStr for ChallengeRecord {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| RecordError {
            text: text.chars().take(64).collect(),
        })
    }
}

fn parse(text: &str) -> Option<ChallengeRecord> {
    let mut words = text.split(' ');
    if words.next()? != VERSION {
        return None;
    }
    let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
    let limit = Duration::from_millis(field("limit_ms")?.parse().ok()?);
    let process = field("process")?.to_owned();
    let sequence = field("sequence")?.parse().ok()?;
    let state = match words.next()? {
        "clear" => ChallengeState::Clear,
        challenged => {
            let by = challenged.strip_prefix("challenged_by=")?;
            let by = i64::from_str_radix(by, 16).ok().and_then(LeaseId::new)?;
            ChallengeState::Challenged { by }
        }
    };
    // A limit of zero would depose at once.
    (words.next().is_none() && !limit.is_zero()).then_some(ChallengeRecord {
        limit,
        process,
        sequence,
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let clear = ChallengeRecord {
            limit: Duration::from_millis(1_500),
            process: "00ff".into(),
            sequence: 7,
            state: ChallengeState::Clear,
        };
        assert_eq!(clear.to_string(), "1 limit_ms=1500 process=00ff sequence=7 clear");
        let by = LeaseId::new(0x694d_7715_2b8f_7c0a).unwrap();
        let challenged = clear.with_state(ChallengeState::Challenged { by });
        assert!(challenged.to_string().ends_with(" challenged_by=694d77152b8f7c0a"));
        for record in [clear, challenged] {
            assert_eq!(ChallengeRecord::decode(record.to_string().as_bytes()), Ok(record));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2 limit_ms=1000 process=1 sequence=0 clear",
            "1 limit_ms=1000 process=1 sequence=0",
            "1 limit_ms=1000 process=1 sequence=0 clear more",
            "1 limit_ms=0 process=1 sequence=0 clear",
            "1 limit_ms=-1 process=1 sequence=0 clear",
            "1 limit_ms=1000 process=1 sequence=0 challenged_by=0",
            "1 limit_ms=1000 process=1 sequence=0 challenged_by=zz",
            "1 limit=1000 process=1 sequence=0 clear",
        ] {
            assert!(text.parse::<ChallengeRecord>().is_err(), "{text}");
        }
        let error = ChallengeRecord::decode(&[0xff; 1_000]).unwrap_err();
        assert!(error.text.chars().count() <= 64);
    }
}
