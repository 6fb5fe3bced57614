//! Credentials on disk, and TLS between those that have some.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use super::files::certificate_pem;
use super::files::names::{CA, NODE, NODE_KEY};
use super::*;
use crate::testing::{Directory, authority, handshake, node, wall};
use crate::{Authority, Subject, node_id};

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
    let public = *key.public_key();
    let said = |directory: &Directory| directory.load().unwrap_err().to_string();
    assert!(said(&directory).contains("ca.pem"), "{}", said(&directory));
    directory.write(&authority(), &certificate, &key);
    assert!(said(&directory).contains("not signed by"), "{}", said(&directory));
    let user = ca.issue(&Subject::user("owner"), &public, wall()).unwrap();
    directory.write(&ca, &user, &key);
    assert!(said(&directory).contains("the user \"owner\""), "{}", said(&directory));
    directory.write(&ca, &certificate, &PrivateKey::generate().unwrap());
    assert!(said(&directory).contains("do not match"), "{}", said(&directory));
    directory.write(&ca, &certificate, &key);
    fs::set_permissions(directory.path().join(NODE_KEY), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(said(&directory).contains("chmod 600"), "{}", said(&directory));
    fs::set_permissions(directory.path().join(NODE_KEY), fs::Permissions::from_mode(0o600)).unwrap();
    for (path, wide, tight) in [
        (directory.path().to_owned(), 0o770, 0o700),
        (directory.path().join(CA), 0o646, 0o644),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
        let hint = format!("chmod {tight:o} {}", path.display());
        assert!(said(&directory).contains(&hint), "{}", said(&directory));
        fs::set_permissions(&path, fs::Permissions::from_mode(tight)).unwrap();
    }
    directory.load().expect("as it should be");
    directory.write(&ca, &certificate, &key);
    let expired = Credentials::load(directory.path(), SystemTime::UNIX_EPOCH)
        .unwrap_err()
        .to_string();
    assert!(
        expired.contains("the clock of this host is at 1970-01-01T00:00:00Z"),
        "{expired}"
    );
    fs::write(directory.path().join(NODE), "nonsense").unwrap();
    assert!(
        said(&directory).contains("no certificate in PEM"),
        "{}",
        said(&directory)
    );
    assert!(!said(&directory).contains(&id));
}

/// DER, the key as it is stored, and other names.
#[test]
fn the_originals_files_are_taken_as_they_are() {
    let (directory, ca) = (Directory::new("originals"), authority());
    let (key, id, certificate) = node(&ca);
    let write = |name: &str, bytes: &[u8]| {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o400);
        std::io::Write::write_all(&mut file.open(directory.path().join(name)).unwrap(), bytes).unwrap();
    };
    write(CA, ca.certificate());
    write(files::names::GO_NODE, &certificate);
    write(files::names::GO_NODE_KEY, &key.to_bytes()[..]);
    assert_eq!(directory.load().unwrap().node_id(), id);
    // Ours come first, if there are any.
    let (other_key, other, certificate) = node(&ca);
    write(NODE, certificate_pem(&certificate).as_bytes());
    directory.load().expect_err("its key is not there");
    write(NODE_KEY, other_key.to_pem().as_bytes());
    assert_eq!(directory.load().unwrap().node_id(), other);
}

#[test]
fn new_credentials_are_taken_if_they_are_good() {
    let (directory, ca) = (Directory::new("rotation"), authority());
    let (key, id, certificate) = node(&ca);
    directory.write(&ca, &certificate, &key);
    let credentials = CredentialsWatch::new(directory.path().to_owned(), wall).unwrap();
    let server = credentials.server();
    let before = server.borrow().clone();
    assert!(!credentials.reload().unwrap());
    // Another node's, and nonsense: what there is stays.
    let (other_key, _, other) = node(&ca);
    directory.write(&ca, &other, &other_key);
    credentials.reload().unwrap_err();
    fs::write(directory.path().join(NODE), "nonsense").unwrap();
    credentials.reload().unwrap_err();
    assert!(Arc::ptr_eq(&before, &server.borrow()));
    // The same key, certified once more.
    let public = *key.public_key();
    let renewed = ca.issue(&Subject::node(&id), &public, wall()).unwrap();
    directory.write(&ca, &renewed, &key);
    assert!(credentials.reload().unwrap());
    assert!(!Arc::ptr_eq(&before, &server.borrow()));
    assert!(!credentials.reload().unwrap());
}

/// Only root can give files away, and tests do not always run as root.
#[test]
fn what_belongs_to_somebody_else_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (directory, ca) = (Directory::new("owner"), authority());
    let (key, _, certificate) = node(&ca);
    directory.write(&ca, &certificate, &key);
    for path in [
        directory.path().join(NODE_KEY),
        directory.path().join(NODE),
        directory.path().join(CA),
        directory.path().to_owned(),
    ] {
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        let said = directory.load().unwrap_err().to_string();
        let hint = format!("chown 0 {}", path.display());
        assert!(said.contains("65534") && said.contains(&hint), "{said}");
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    directory.load().expect("as it should be");
}

/// Somebody who has made the file beside it first, or a link, does not get the key.
#[test]
fn a_key_is_not_written_into_a_file_that_is_there() {
    let directory = Directory::new("planted");
    let credentials = files::CredentialsDirectory::create(directory.path()).unwrap();
    let partial = directory.path().join(format!(".{NODE_KEY}.new"));
    fs::write(&partial, "").unwrap();
    let mut planted = fs::File::open(&partial).unwrap();
    credentials.key(NODE_KEY).unwrap();
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut planted, &mut read).unwrap();
    assert_eq!(read.len(), 0, "it was written into the file that was there");
    fs::remove_file(directory.path().join(NODE_KEY)).unwrap();
    let elsewhere = directory.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, &partial).unwrap();
    credentials.key(NODE_KEY).unwrap();
    assert!(!elsewhere.exists(), "it was written to where the link leads");
}

#[test]
fn credentials_are_written_once_and_for_nobody_else() {
    let directory = Directory::new("written");
    let path = directory.path().join("new");
    let credentials = files::CredentialsDirectory::create(&path).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o700);
    let key = credentials.key(NODE_KEY).unwrap();
    assert_eq!(mode(&path.join(NODE_KEY)), 0o600);
    let again = credentials.key(NODE_KEY).unwrap();
    assert_eq!(again.public_key(), key.public_key(), "the one that is there");
    let ca = authority();
    let id = node_id(key.public_key()).unwrap();
    let certificate = ca.issue(&Subject::node(&id), key.public_key(), wall()).unwrap();
    credentials.write_certificate(CA, ca.certificate()).unwrap();
    credentials.write_certificate(NODE, &certificate).unwrap();
    let over = credentials.write_certificate(CA, &certificate).unwrap_err();
    assert!(over.to_string().contains("cannot write"), "{over}");
    assert_eq!(Credentials::load(&path, wall()).unwrap().node_id(), id);
    // What cannot be used is not replaced either.
    fs::write(path.join(files::names::JOIN_KEY), "nonsense").unwrap();
    fs::set_permissions(path.join(files::names::JOIN_KEY), fs::Permissions::from_mode(0o600)).unwrap();
    credentials.key(files::names::JOIN_KEY).unwrap_err();
    // Others may write into it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    files::CredentialsDirectory::create(&path).unwrap_err();
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
    let (shown, reached) = handshake(&leader, follower.client(leader.node_id()).unwrap()).await;
    assert_eq!((shown.map(|shown| shown.len()), reached), (Ok(1), Ok(())));
    let (_, refused) = handshake(&leader, follower.client(follower.node_id()).unwrap()).await;
    assert!(refused.unwrap_err().contains("is not node"));
    let (_, refused) = handshake(&stranger, follower.client(stranger.node_id()).unwrap()).await;
    assert!(refused.unwrap_err().contains("not signed by the cluster's CA"));
}

/// As OpenSSL sends it for a client that knows the authority.
#[test]
fn a_certificate_with_the_clusters_authority_behind_it_is_recognized_and_with_any_other_it_is_not() {
    let (ca, stranger) = (authority(), authority());
    let (_, id, certificate) = node(&ca);
    let der = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());
    let (leaf, own) = (der(&certificate), der(ca.certificate()));
    let shown = |shown: &[&CertificateDer<'static>]| {
        let shown: Vec<_> = shown.iter().map(|one| (*one).clone()).collect();
        recognized(&shown, ca.certificate(), wall())
    };
    for good in [&[&leaf][..], &[&leaf, &own], &[&leaf, &own, &own]] {
        let found = shown(good).expect("it is clear who that is");
        assert!(matches!(found, Identity::Node { id: found, .. } if found == id));
    }
    let other = der(stranger.certificate());
    for bad in [
        &[&leaf, &leaf][..],
        &[&leaf, &other],
        &[&leaf, &own, &other],
        &[&leaf, &other, &own],
    ] {
        assert!(matches!(shown(bad), Err(NotRecognized::Several)), "{}", bad.len());
    }
    // The authority itself is nobody.
    assert!(matches!(shown(&[&own]), Err(NotRecognized::Certificate(_))));
    assert!(shown(&[&own, &leaf]).is_err());
}
