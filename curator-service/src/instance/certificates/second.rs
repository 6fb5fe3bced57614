//! A second certificate of the node, for clients without Ed25519 support: BoringSSL, and so all of gRPC's C core.
//!
//! Its key is P-256, generated at the start of the instance, never written to disk, and gone with the process. The
//! certificate is issued by the cluster's authority, whose key is in the store. It has the names of the node's own
//! certificate, and grants no access: a client that presents it is unauthenticated, because members are identified by
//! their Ed25519 keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use curator_election::store::{Keys, Range, Store};
use curator_identity::{Authority, AuthorityError, Credentials, CredentialsWatch, PrivateKey};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::consensus::{ConsensusStatus, running};
use crate::state::pki_layout::Layout;

/// The lifetime of a certificate.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The age at which it is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The interval of checks, and the maximum retry interval.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
/// The initial retry interval.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAuthority {
    #[error("cannot read the store: {0}")]
    Read(#[from] curator_election::store::StoreError),
    #[error("the cluster is not bootstrapped")]
    None,
    #[error("the certificate authority in the store differs from ca.pem")]
    Other,
    #[error(transparent)]
    Broken(#[from] AuthorityError),
}

impl From<curator_identity::KeyError> for NoAuthority {
    fn from(error: curator_identity::KeyError) -> Self {
        Self::Broken(error.into())
    }
}

/// Why there is no second certificate.
#[derive(Debug, thiserror::Error)]
enum NoSecond {
    #[error(transparent)]
    NoAuthority(#[from] NoAuthority),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("cannot generate a key")]
    Key,
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Issues a certificate once the store is available, and renews it, until cancelled.
pub(crate) async fn run(
    credentials: CredentialsWatch,
    mut consensus: watch::Receiver<ConsensusStatus>,
    cancel: CancellationToken,
) {
    let (mut made, mut said, mut wait) = (None, None, RETRY_INTERVAL);
    while !cancel.is_cancelled() {
        let Some(Some(store)) = cancel.run_until_cancelled(running(&mut consensus)).await else {
            // The consensus is gone, and so will this instance be.
            return cancel.cancelled().await;
        };
        let now = credentials.now();
        if is_due(made, now) || credentials.newest().second().is_none() {
            let Some(result) = cancel.run_until_cancelled(make(&credentials, &*store, now)).await else {
                return;
            };
            match result {
                Ok(true) => {
                    info!("P-256 certificate issued for clients without Ed25519");
                    (made, said, wait) = (Some(now), None, POLL_INTERVAL);
                }
                // The credentials were replaced meanwhile.
                Ok(false) => continue,
                Err(error) => {
                    let text = error.to_string();
                    if said.as_ref() != Some(&text) {
                        warn!(%error, "cannot issue the P-256 certificate for clients without Ed25519");
                    }
                    said = Some(text);
                    wait = (wait * 2).min(POLL_INTERVAL);
                }
            }
        }
        cancel.run_until_cancelled(credentials.changed_within(wait)).await;
    }
}

/// Whether to renew the certificate. After the clock was set back, always: the certificate may not be valid yet.
fn is_due(made: Option<SystemTime>, now: SystemTime) -> bool {
    made.is_none_or(|made| now.duration_since(made).map_or(true, |age| age >= RENEW_AFTER))
}

/// Issues a certificate for the newest credentials and installs it, unless the credentials were replaced meanwhile.
async fn make(credentials: &CredentialsWatch, store: &dyn Store, now: SystemTime) -> Result<bool, NoSecond> {
    let newest = credentials.newest();
    let authority = authority(store).await?;
    if authority.certificate() != newest.ca() {
        return Err(NoAuthority::Other.into());
    }
    let second = Arc::new(certified(&authority, &newest, now)?);
    Ok(credentials.update(|there| {
        let same = there.certificate() == newest.certificate() && there.ca() == newest.ca();
        same.then(|| there.with_second(second)).transpose()
    })?)
}

/// The cluster's authority, which never changes.
pub(super) async fn authority(store: &dyn Store) -> Result<Authority, NoAuthority> {
    let read = async |key| {
        let read = store.range(Range::all(Keys::One(key))).await?;
        read.kvs.into_iter().next().ok_or(NoAuthority::None)
    };
    let certificate = read(Layout::CLUSTER.certificate()).await?.value.to_vec();
    let key = PrivateKey::from_bytes(&read(Layout::CLUSTER.key()).await?.value)?;
    Ok(Authority::load(key, certificate)?)
}

fn certified(authority: &Authority, credentials: &Credentials, now: SystemTime) -> Result<CertifiedKey, NoSecond> {
    let random = ring::rand::SystemRandom::new();
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(|_| NoSecond::Key)?;
    let key = Zeroizing::new(made.as_ref().to_vec());
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key, &random).map_err(|_| NoSecond::Key)?;
    let public = pair.public_key().as_ref().try_into().map_err(|_| NoSecond::Key)?;
    let until = now.checked_add(LIFETIME).ok_or(AuthorityError::Time)?;
    let certificate = authority.issue_p256(credentials.node_id(), public, now, until)?;
    let signing = rustls::crypto::ring::sign::any_ecdsa_type(&PrivatePkcs8KeyDer::from(&key[..]).into())?;
    let certified = CertifiedKey::new(vec![CertificateDer::from(certificate)], signing);
    certified.keys_match()?;
    Ok(certified)
}

#[cfg(test)]
mod tests {
    use curator_election::memory::MemoryCluster;
    use curator_election::store::Txn;
    use curator_identity::testing::{Directory, handshake, node, wall};
    use curator_identity::{ExpectedServer, NodeVerifier, NotRecognized, Subject, VerifyError, recognized};
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::verify_tls13_signature;
    use rustls::sign::SingleCertAndKey;
    use rustls::version::TLS13;
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{ServerName, UnixTime};
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::*;

    /// A client that offers these schemes, and takes whoever it meets; what it was shown.
    #[derive(Debug)]
    struct Offers(Vec<SignatureScheme>, std::sync::Mutex<Vec<u8>>);

    impl ServerCertVerifier for Offers {
        fn verify_server_cert(
            &self,
            certificate: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            *self.1.lock().unwrap() = certificate.to_vec();
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            unreachable!("there is TLS 1.3 alone")
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let provider = rustls::crypto::ring::default_provider();
            verify_tls13_signature(
                message,
                certificate,
                signed,
                &provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.clone()
        }
    }

    /// As BoringSSL's defaults have them.
    const WITHOUT_ED25519: [SignatureScheme; 3] = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PKCS1_SHA256,
    ];

    /// What a client that offers these is shown.
    async fn shown(server: &Credentials, schemes: &[SignatureScheme]) -> Result<Vec<u8>, String> {
        let verifier = Arc::new(Offers(schemes.to_vec(), std::sync::Mutex::default()));
        let mut client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        let (_, reached) = handshake(server, client).await;
        reached?;
        Ok(verifier.1.lock().unwrap().clone())
    }

    /// A node's credentials on the disk, and a store with their authority.
    async fn cluster(name: &str) -> (Directory, CredentialsWatch, Authority, MemoryCluster) {
        let cluster = MemoryCluster::new(1);
        let (authority, ops) = Layout::CLUSTER.complete(None, None, None, wall()).unwrap();
        cluster
            .client(0)
            .txn(Txn::default().then(ops))
            .await
            .expect("no faults");
        let directory = Directory::new(name);
        let (key, _, certificate) = node(&authority);
        directory.write(&authority, &certificate, &key);
        let credentials = CredentialsWatch::new(directory.path().to_owned(), wall).unwrap();
        (directory, credentials, authority, cluster)
    }

    #[tokio::test]
    async fn a_client_without_ed25519_is_shown_a_certificate_that_it_can_verify_and_others_the_nodes_own() {
        let (_directory, credentials, authority, cluster) = cluster("second-shown").await;
        shown(&credentials.newest(), &WITHOUT_ED25519)
            .await
            .expect_err("there is none yet");
        let own = shown(&credentials.newest(), &[SignatureScheme::ED25519]).await.unwrap();
        assert!(make(&credentials, &cluster.client(0), wall()).await.unwrap());
        let newest = credentials.newest();
        let second = shown(&newest, &WITHOUT_ED25519).await.unwrap();
        assert_ne!(second, own);
        let (_, certificate) = X509Certificate::from_der(&second).unwrap();
        let (_, ca) = X509Certificate::from_der(authority.certificate()).unwrap();
        certificate
            .verify_signature(Some(ca.public_key()))
            .expect("by the authority");
        assert_eq!(certificate.subject().to_string(), format!("CN={}", newest.node_id()));
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            i64::try_from(since.as_secs()).unwrap()
        };
        let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
        assert!(begin.timestamp() < seconds(wall()), "clocks differ");
        assert_eq!(end.timestamp(), seconds(wall() + LIFETIME));
        // Whoever knows both is shown the one that says who this is by its key.
        let both = [&WITHOUT_ED25519[..], &[SignatureScheme::ED25519]].concat();
        assert_eq!(shown(&newest, &both).await.unwrap(), own);
        shown(&newest, &[SignatureScheme::RSA_PSS_SHA256])
            .await
            .expect_err("no certificate with an RSA key");
    }

    #[tokio::test]
    async fn the_second_certificate_opens_nothing_and_is_no_leaders() {
        let (_directory, credentials, authority, cluster) = cluster("second-opens").await;
        assert!(make(&credentials, &cluster.client(0), wall()).await.unwrap());
        let newest = credentials.newest();
        let second = newest.second().cloned().unwrap();
        let nobody = recognized(&second.cert, authority.certificate(), wall()).unwrap_err();
        assert!(
            matches!(nobody, NotRecognized::Certificate(VerifyError::KeyKind)),
            "{nobody}"
        );
        // An instance that shows it alone is not taken for the node by any other.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let alone = newest.showing(second).unwrap();
        let wanted = ExpectedServer::AnyNode {
            ca: newest.ca().to_vec().into(),
        };
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NodeVerifier::new(wanted, provider)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(newest.certified().clone())));
        let (_, reached) = handshake(&alone, client).await;
        assert!(reached.unwrap_err().contains("not Ed25519"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_there_once_the_store_is_and_stays_when_the_own_one_is_renewed() {
        let (directory, credentials, authority, cluster) = cluster("second-life").await;
        let reason = "not yet".to_owned();
        let (store, consensus) = watch::channel(ConsensusStatus::NotRunning { reason });
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run(credentials.clone(), consensus, cancel.clone()));
        let mut newest = credentials.subscribe();
        tokio::time::timeout(POLL_INTERVAL * 2, newest.changed())
            .await
            .expect_err("there is no store");
        store.send_replace(ConsensusStatus::Running(Arc::new(cluster.client(0))));
        newest.wait_for(|newest| newest.second().is_some()).await.unwrap();
        let second = credentials.newest().second().cloned().unwrap();
        let key = curator_identity::read_private_key(&directory.path().join("node-key.pem")).unwrap();
        let id = credentials.newest().node_id().to_owned();
        let renewed = authority.issue(&Subject::node(&id), key.public_key(), wall()).unwrap();
        directory.write(&authority, &renewed, &key);
        assert!(credentials.reload().unwrap());
        let now = credentials.newest();
        assert_eq!(now.certificate(), renewed);
        assert!(Arc::ptr_eq(now.second().unwrap(), &second), "it is as good as it was");
        cancel.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn no_other_authority_makes_one() {
        let (_directory, credentials, ..) = cluster("second-other").await;
        let (_d, _c, _a, other) = cluster("second-stranger").await;
        let error = make(&credentials, &other.client(0), wall()).await.unwrap_err();
        assert!(matches!(error, NoSecond::NoAuthority(NoAuthority::Other)), "{error}");
        let nothing = MemoryCluster::new(1);
        let error = make(&credentials, &nothing.client(0), wall()).await.unwrap_err();
        assert!(matches!(error, NoSecond::NoAuthority(NoAuthority::None)), "{error}");
        assert!(credentials.newest().second().is_none());
    }

    #[test]
    fn it_is_renewed_in_time_and_when_the_clock_was_wrong() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(is_due(None, wall()));
        for (now, due) in [
            (wall(), false),
            (wall() + 29 * day, false),
            (wall() + 30 * day, true),
            (wall() - day, true),
        ] {
            assert_eq!(is_due(Some(wall()), now), due, "{now:?}");
        }
    }
}
