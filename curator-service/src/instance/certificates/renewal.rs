//! Renews the node's certificate before it expires.
//!
//! Certificates from the Curator are valid until the year 9999. A certificate that was issued elsewhere for a shorter
//! time is renewed when a fifth of that time is left; an external issuer that renews certificates itself has done so by
//! then. The instance asks the cluster as `curatorctl cert renew` does, with the node's key; it calls itself, and its
//! listener forwards the call to the leader.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use curator_identity::{
    ClientCredentials, ClientError, Credentials, CredentialsError, CredentialsWatch, Identity, Trust, read_private_key,
    replace_certificate, validity, verify,
};
use curator_proto::admin_api::IssueOwnRequest;
use curator_proto::admin_api::certificates_client::CertificatesClient;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tracing::{error, info};

use crate::telemetry;

/// A certificate is renewed when at most one of this many parts of its validity is left.
const RENEW_AT_FRACTION: u32 = 5;
/// The interval of checks.
const POLL_INTERVAL: Duration = Duration::from_secs(3_600);
/// The minimum retry interval.
const MIN_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// The timeout of the reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("the cluster refused: {}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("the cluster did not answer within {REPLY_TIMEOUT:?}")]
    Late,
    #[error("invalid certificate received: {0}")]
    Useless(String),
    #[error("{} cannot be replaced: {source}", path.display())]
    Replace { path: PathBuf, source: io::Error },
}

/// Renews the certificate when it is due, until cancelled. `own` is the listen address of this instance.
pub(crate) async fn run(credentials: CredentialsWatch, own: SocketAddr, cancel: CancellationToken) {
    let renewing = async {
        let mut said = false;
        loop {
            let newest = credentials.newest();
            let now = credentials.now();
            let wait = match due_in(newest.certificate(), now) {
                None => POLL_INTERVAL,
                Some(wait) if wait > Duration::ZERO => wait.min(POLL_INTERVAL),
                Some(_) => {
                    let outcome = renew(&credentials, &newest, own).await;
                    let word = if outcome.is_ok() { "ok" } else { "failed" };
                    metrics::counter!(telemetry::CERTIFICATES_RENEWED, "outcome" => word).increment(1);
                    match outcome {
                        Ok(()) => {
                            said = false;
                            info!(node_id = newest.node_id(), "the node's certificate was renewed");
                        }
                        Err(error) if !std::mem::replace(&mut said, true) => error!(
                            %error,
                            "the node's certificate expires soon and cannot be renewed; retrying. To renew it by hand, \
                             run `curatorctl cert renew`"
                        ),
                        Err(_) => {}
                    }
                    let left = validity(newest.certificate()).map(|(_, end)| left(end, now));
                    (left.unwrap_or_default() / 20).clamp(MIN_RETRY_INTERVAL, POLL_INTERVAL)
                }
            };
            credentials.changed_within(wait).await;
        }
    };
    cancel.run_until_cancelled(renewing).await;
}

fn left(end: i64, now: SystemTime) -> Duration {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(end).unwrap_or_default());
    end.duration_since(now).unwrap_or_default()
}

/// The time until the renewal is due; `None` if the certificate is invalid.
fn due_in(certificate: &[u8], now: SystemTime) -> Option<Duration> {
    let (begin, end) = validity(certificate)?;
    let whole = Duration::from_secs(u64::try_from(end.saturating_sub(begin)).ok()?);
    Some(left(end, now).saturating_sub(whole / RENEW_AT_FRACTION))
}

async fn renew(credentials: &CredentialsWatch, known: &Credentials, own: SocketAddr) -> Result<(), NotRenewed> {
    let [path, key_path] = credentials.node_files();
    // The key of the certificate in use is not kept outside of TLS.
    let key = read_private_key(&key_path)?;
    let only_this = Trust::Node {
        ca: known.ca().to_vec(),
        node_id: known.node_id().to_owned(),
    };
    let shown = ClientCredentials::with_key(only_this, &key, credentials.now())?;
    let mut certificates = CertificatesClient::new(shown.channel(&own.to_string())?);
    let mut request = Request::new(IssueOwnRequest { anew: true });
    request.set_timeout(REPLY_TIMEOUT);
    let issued = timeout(REPLY_TIMEOUT, certificates.issue_own(request)).await;
    let issued = issued.map_err(|_| NotRenewed::Late)??.into_inner().certificate;
    match verify(&issued, known.ca(), credentials.now()) {
        Ok(Identity::Node { id, .. }) if id == known.node_id() => {}
        Ok(_) => return Err(NotRenewed::Useless("it is for another node".to_owned())),
        Err(error) => return Err(NotRenewed::Useless(error.to_string())),
    }
    replace_certificate(&path, &issued).map_err(|source| NotRenewed::Replace { path, source })
}

#[cfg(test)]
mod tests {
    use curator_identity::testing::{authority, wall};
    use curator_identity::{PrivateKey, Subject};

    use super::*;

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3_600)
    }

    /// From an hour before `wall` until 24 hours after it, by the authority's own way for certificates that end.
    fn short() -> Vec<u8> {
        let key = PrivateKey::generate().unwrap();
        authority()
            .issue_member("node", key.public_key(), wall(), wall() + hours(24))
            .unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_when_a_fifth_of_its_time_is_left_and_one_without_end_never() {
        let short = short();
        // A fifth of 25 hours before its end.
        assert_eq!(due_in(&short, wall()), Some(hours(19)));
        assert_eq!(due_in(&short, wall() + hours(19)), Some(Duration::ZERO));
        assert_eq!(due_in(&short, wall() + hours(48)), Some(Duration::ZERO));
        let key = PrivateKey::generate().unwrap();
        let long = authority()
            .issue(&Subject::node("node"), key.public_key(), wall())
            .unwrap();
        assert!(due_in(&long, wall() + hours(24 * 365 * 100)) > Some(hours(24 * 365 * 1_000)));
        assert_eq!(due_in(b"nonsense", wall()), None);
    }
}
