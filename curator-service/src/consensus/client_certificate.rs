//! Detects an expired client certificate for etcd: etcd itself only reports a bad certificate, on every connection.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use curator_identity::{ends_at, read_certificate};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::error;

use crate::telemetry;

/// The interval of checks.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The client certificate for etcd, in a file.
pub(super) struct ClientCertificate {
    path: PathBuf,
    wall: fn() -> SystemTime,
    /// The expiry of the certificate that was last logged.
    told: Mutex<Option<i64>>,
}

impl ClientCertificate {
    pub(super) const fn new(path: PathBuf, wall: fn() -> SystemTime) -> Self {
        Self {
            path,
            wall,
            told: Mutex::new(None),
        }
    }

    /// Logs an expired certificate once; returns the error text if it has expired.
    pub(super) async fn ended(&self) -> Option<String> {
        let path = self.path.clone();
        // An unreadable file is reported by the etcd client.
        let der = spawn_blocking(move || read_certificate(&path)).await.ok()?.ok()?;
        let end = ends_at(&der)?;
        #[allow(clippy::cast_precision_loss, reason = "seconds, and far below 2^53")]
        metrics::gauge!(telemetry::CERTIFICATE_END, "certificate" => "etcd_client").set(end as f64);
        let now = (self.wall)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if end >= i64::try_from(now.as_secs()).unwrap_or(i64::MAX) {
            return None;
        }
        let at = u64::try_from(end).unwrap_or_default();
        let at = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(at));
        let text = format!(
            "the client certificate for etcd, {}, expired at {at}",
            self.path.display()
        );
        // The lock cannot be poisoned half-way: its holders do not panic.
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).replace(end);
        if told != Some(end) {
            error!("{text}: replace the file; the new certificate is used within seconds");
        }
        Some(text)
    }

    /// Checks again and again. Never returns.
    pub(super) async fn watch(&self) {
        loop {
            let _ = self.ended().await;
            sleep(POLL_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use curator_identity::certificate_pem;

    use super::*;
    use crate::state::pki_layout::Layout;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        NOW + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn a_client_certificate_that_has_ended_is_named_with_its_file() {
        let file = std::env::temp_dir().join(format!("curator-etcd-client-{}.pem", std::process::id()));
        let (authority, _) = Layout::CLUSTER.complete(None, None, None, at(0)).unwrap();
        // What kind of key it has does not matter.
        let key: [u8; 65] = p256();
        let issue = |until| {
            authority
                .issue_p256("metropolis-01", &key, at(10_000), at(until))
                .unwrap()
        };
        let certificate = ClientCertificate::new(file.clone(), || at(20_000));
        assert_eq!(certificate.ended().await, None, "there is none");
        std::fs::write(&file, certificate_pem(&issue(30_000))).unwrap();
        assert_eq!(certificate.ended().await, None);
        std::fs::write(&file, certificate_pem(&issue(15_000))).unwrap();
        let told = certificate.ended().await.expect("it has ended");
        assert!(
            told.contains("expired at 1970-01-01T04:10:00Z") && told.contains(&*file.to_string_lossy()),
            "{told}"
        );
        std::fs::remove_file(&file).unwrap();
    }

    fn p256() -> [u8; 65] {
        use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
        let random = ring::rand::SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.as_ref(), &random).unwrap();
        key.public_key().as_ref().try_into().unwrap()
    }
}
