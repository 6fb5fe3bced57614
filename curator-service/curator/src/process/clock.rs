//! A clock that is not right yet, as of a host without a battery that has just booted.

use std::time::Duration;

use curator_service::CredentialsError;
use tracing::{info, warn};

/// How often to look whether it is right.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// What `load` gives, once the clock lets the certificate be valid; what else is wrong with it, at once.
pub(crate) fn once_right<T>(
    mut load: impl FnMut() -> Result<T, CredentialsError>,
    mut pause: impl FnMut(),
) -> Result<T, CredentialsError> {
    let mut told = false;
    loop {
        match load() {
            Err(error @ CredentialsError::NotYet { .. }) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "waiting for the clock of this host to be set");
                }
                pause();
            }
            loaded => {
                if told && loaded.is_ok() {
                    info!("the clock of this host is right now");
                }
                return loaded;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_yet() -> CredentialsError {
        CredentialsError::NotYet {
            path: "node.pem".into(),
            valid_from: "later".into(),
            now: "now".into(),
        }
    }

    #[test]
    fn a_clock_that_is_behind_is_waited_for_and_nothing_else() {
        let mut answers = vec![Ok(7), Err(not_yet()), Err(not_yet())];
        let mut pauses = 0;
        let loaded = once_right(
            || answers.pop().expect("asked no more once it is there"),
            || pauses += 1,
        );
        assert!(matches!(loaded, Ok(7)));
        assert_eq!(pauses, 2);
        let wrong = || CredentialsError::Certificate {
            path: "node.pem".into(),
            reason: "it is not valid any more".into(),
        };
        let loaded = once_right(|| Err::<(), _>(wrong()), || unreachable!("nothing to wait for"));
        assert!(matches!(loaded, Err(CredentialsError::Certificate { .. })));
    }
}
