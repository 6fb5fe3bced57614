//! Credentials on disk, and TLS between those that have some.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::{Authority, PrivateKey, Subject, node_id};

const NOW: u64 = 1_750_000_000;

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// PKCS #8, version 1, around an Ed25519 seed: RFC 8410.
fn pkcs8(key: &PrivateKey) -> Vec<u8> {
    let head = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    [&head[..], &key.to_bytes()[..32]].concat()
}

/// A directory that goes away.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("curator-credentials-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, ca: &Authority, certificate: &[u8], key: &PrivateKey) {
        fs::write(self.0.join(CA), pem("CERTIFICATE", ca.certificate())).unwrap();
        fs::write(self.0.join(CERTIFICATE), pem("CERTIFICATE", certificate)).unwrap();
        let path = self.0.join(KEY);
        let _ = fs::remove_file(&path);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).mode(0o600).open(path).unwrap();
        std::io::Write::write_all(&mut file, pem("PRIVATE KEY", &pkcs8(key)).as_bytes()).unwrap();
    }

    fn load(&self) -> Result<Credentials, CredentialsError> {
        Credentials::load(&self.0, wall())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn authority() -> Authority {
    Authority::create("Metropolis Cluster CA", PrivateKey::generate().unwrap(), wall()).unwrap()
}

/// A node's key, id and certificate.
fn node(ca: &Authority) -> (PrivateKey, String, Vec<u8>) {
    let key = PrivateKey::generate().unwrap();
    let public: [u8; 32] = key.public_key().try_into().unwrap();
    let id = node_id(&public).unwrap();
    let certificate = ca.issue(&Subject::node(&id), &public, wall()).unwrap();
    (key, id, certificate)
}

#[test]
fn credentials_are_read_and_their_key_is_not_shown() {
    let (directory, ca) = (Directory::new("good"), authority());
    let (key, id, certificate) = node(&ca);
    directory.write(&ca, &certificate, &key);
    let credentials = directory.load().unwrap();
    assert_eq!(credentials.node_id(), id);
    let shown = format!("{credentials:?}");
    let seed: String = key.to_bytes()[..4].iter().map(|byte| format!("{byte}, ")).collect();
    assert!(shown.contains(&id) && !shown.contains(seed.trim_end()), "{shown}");
}

#[test]
fn what_is_wrong_with_credentials_is_said() {
    let (directory, ca) = (Directory::new("bad"), authority());
    let (key, id, certificate) = node(&ca);
    let public: [u8; 32] = key.public_key().try_into().unwrap();
    let said = |directory: &Directory| directory.load().unwrap_err().to_string();
    assert!(said(&directory).contains("ca.pem"), "{}", said(&directory));
    directory.write(&authority(), &certificate, &key);
    assert!(said(&directory).contains("not signed by"), "{}", said(&directory));
    let user = ca.issue(&Subject::user("owner"), &public, wall()).unwrap();
    directory.write(&ca, &user, &key);
    assert!(said(&directory).contains("the user \"owner\""), "{}", said(&directory));
    directory.write(&ca, &certificate, &PrivateKey::generate().unwrap());
    assert!(said(&directory).contains("do not go together"), "{}", said(&directory));
    directory.write(&ca, &certificate, &key);
    fs::set_permissions(directory.0.join(KEY), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(said(&directory).contains("chmod 600"), "{}", said(&directory));
    directory.write(&ca, &certificate, &key);
    let expired = Credentials::load(&directory.0, SystemTime::UNIX_EPOCH)
        .unwrap_err()
        .to_string();
    assert!(expired.contains("not valid yet"), "{expired}");
    fs::write(directory.0.join(CERTIFICATE), "nonsense").unwrap();
    assert!(
        said(&directory).contains("no certificate in PEM"),
        "{}",
        said(&directory)
    );
    assert!(!said(&directory).contains(&id));
}

#[test]
fn new_credentials_are_taken_if_they_are_good() {
    let (directory, ca) = (Directory::new("rotation"), authority());
    let (key, id, certificate) = node(&ca);
    directory.write(&ca, &certificate, &key);
    let credentials = CredentialsWatch::new(directory.0.clone(), wall).unwrap();
    let server = credentials.server();
    let before = server.borrow().clone();
    assert!(!credentials.look().unwrap());
    // Another node's, and nonsense: what there is stays.
    let (other_key, _, other) = node(&ca);
    directory.write(&ca, &other, &other_key);
    credentials.look().unwrap_err();
    fs::write(directory.0.join(CERTIFICATE), "nonsense").unwrap();
    credentials.look().unwrap_err();
    assert!(Arc::ptr_eq(&before, &server.borrow()));
    // The same key, certified once more.
    let public: [u8; 32] = key.public_key().try_into().unwrap();
    let renewed = ca.issue(&Subject::node(&id), &public, wall()).unwrap();
    directory.write(&ca, &renewed, &key);
    assert!(credentials.look().unwrap());
    assert!(!Arc::ptr_eq(&before, &server.borrow()));
    assert!(!credentials.look().unwrap());
}

/// Shakes hands over a pipe; what each side thinks of it.
async fn shake(server: &Credentials, client: ClientConfig) -> (Result<usize, String>, Result<(), String>) {
    let (here, there) = tokio::io::duplex(64 << 10);
    let accepting = async {
        let stream = TlsAcceptor::from(server.server()).accept(here).await;
        let stream = stream.map_err(|error| error.to_string())?;
        Ok(stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len))
    };
    let connecting = async {
        let name = ServerName::try_from("anybody").unwrap();
        let mut stream = TlsConnector::from(Arc::new(client))
            .connect(name, there)
            .await
            .map_err(|error| error.to_string())?;
        // With TLS 1.3 the client learns of its refusal only now.
        tokio::io::AsyncWriteExt::flush(&mut stream)
            .await
            .map_err(|error| error.to_string())
    };
    tokio::join!(accepting, connecting)
}

#[tokio::test]
async fn a_follower_reaches_the_leader_that_it_means_and_nobody_else() {
    let ca = authority();
    let load = |name: &str, ca: &Authority| {
        let directory = Directory::new(name);
        let (key, _, certificate) = node(ca);
        directory.write(ca, &certificate, &key);
        directory.load().unwrap()
    };
    let (leader, follower, stranger) = (load("a", &ca), load("b", &ca), load("c", &authority()));
    let (shown, reached) = shake(&leader, follower.client(leader.node_id()).unwrap()).await;
    assert_eq!((shown, reached), (Ok(1), Ok(())));
    let (_, refused) = shake(&leader, follower.client(follower.node_id()).unwrap()).await;
    assert!(refused.unwrap_err().contains("is not node"));
    let (_, refused) = shake(&stranger, follower.client(stranger.node_id()).unwrap()).await;
    assert!(refused.unwrap_err().contains("not signed by the cluster's authority"));
}
