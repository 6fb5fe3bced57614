//! Waits for the clock of the host to be set, for hosts without a battery-backed clock.

use std::time::Duration;

use curator_service::CredentialsError;
use tracing::{info, warn};

/// How often the clock is checked.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Calls `load` until the certificate is valid by the clock. Other errors are returned at once.
pub(crate) fn wait_until_valid<T>(
    mut load: impl FnMut() -> Result<T, CredentialsError>,
    mut pause: impl FnMut(),
) -> Result<T, CredentialsError> {
    let mut waiting = false;
    loop {
        match load() {
            Err(error @ CredentialsError::NotYet { .. }) => {
                if !std::mem::replace(&mut waiting, true) {
                    warn!(%error, "waiting for the clock of this host to be set");
                }
                pause();
            }
            loaded => {
                if waiting && loaded.is_ok() {
                    info!("the clock of this host is set");
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
        let loaded = wait_until_valid(
            || answers.pop().expect("asked no more once it is there"),
            || pauses += 1,
        );
        assert!(matches!(loaded, Ok(7)));
        assert_eq!(pauses, 2);
        let wrong = || CredentialsError::Certificate {
            path: "node.pem".into(),
            reason: "certificate has expired".into(),
        };
        let loaded = wait_until_valid(|| Err::<(), _>(wrong()), || unreachable!("nothing to wait for"));
        assert!(matches!(loaded, Err(CredentialsError::Certificate { .. })));
    }
}
