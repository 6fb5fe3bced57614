//! An etcd that asks for TLS, for client certificates, for a user: what lets an instance in, what is told of what does
//! not, and files and tokens that change while leaders lead.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::store::{Event, Keys, Op, Range, Revision, Store, StoreError, Txn};
use curator_harness::curator::binary_from_env;
use curator_harness::process::{Finished, run};
use curator_harness::{At, CuratorOptions, EtcdOptions, EtcdTls, Mark, TempDir};
use futures::StreamExt;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::test_cluster::{Reach, SOON, TestCluster};

const NAMESPACES: [&str; 3] = ["namespaced:curator/", "namespaced:etcd-pki/", "namespaced:kubernetes/"];
/// Long enough for a member of etcd to be restarted within.
const TTL: Duration = Duration::from_secs(10);

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// An authority of etcd's own certificates, or of its clients'.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: pem("CERTIFICATE", certificate.der()),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for 127.0.0.1 in both directions, and its key. Without a common name, which etcd would take for a
    /// user.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            pem("CERTIFICATE", certificate.der()),
            pem("PRIVATE KEY", key.serialized_der()),
        )
    }
}

/// Replaces a file at once, as whoever rotates one should.
fn write(path: &Path, content: &str, mode: u32) {
    let partial = path.with_extension("partial");
    fs::write(&partial, content).unwrap();
    fs::set_permissions(&partial, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&partial, path).unwrap();
}

/// The files of a cluster with TLS, and of its clients.
struct Files {
    scratch: TempDir,
    clients: Authority,
}

impl Files {
    fn new(label: &str) -> Self {
        let files = Self {
            scratch: TempDir::new(label).unwrap(),
            clients: Authority::new(),
        };
        let servers = Authority::new();
        let (certificate, key) = servers.issue();
        write(&files.path("ca.pem"), &servers.pem, 0o644);
        write(&files.path("etcd.pem"), &certificate, 0o644);
        write(&files.path("etcd-key.pem"), &key, 0o600);
        write(&files.path("clients.pem"), &files.clients.pem, 0o644);
        files.rotate("client", &files.clients);
        files.rotate("etcdctl", &files.clients);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Gives a client a new certificate and key.
    fn rotate(&self, client: &str, authority: &Authority) {
        let (certificate, key) = authority.issue();
        write(&self.path(&format!("{client}-key.pem")), &key, 0o600);
        write(&self.path(&format!("{client}.pem")), &certificate, 0o644);
    }

    /// A cluster that asks for client certificates.
    fn etcd(&self) -> EtcdOptions {
        EtcdOptions {
            tls: Some(EtcdTls {
                certificate: self.path("etcd.pem"),
                key: self.path("etcd-key.pem"),
                ca: self.path("ca.pem"),
                client_ca: Some(self.path("clients.pem")),
                etcdctl: Some((self.path("etcdctl.pem"), self.path("etcdctl-key.pem"))),
            }),
            ..EtcdOptions::default()
        }
    }

    fn args(&self) -> Vec<String> {
        let (ca, certificate, key) = (
            self.text("ca.pem"),
            self.text("client.pem"),
            self.text("client-key.pem"),
        );
        ["--etcd-ca", &ca, "--etcd-cert", &certificate, "--etcd-key", &key]
            .map(str::to_owned)
            .to_vec()
    }

    fn config(&self, stage: &TestCluster) -> EtcdConfig {
        let mut config = EtcdConfig::new(stage.etcd.endpoints());
        config.access.ca = Some(self.path("ca.pem"));
        config.access.certificate = Some(self.path("client.pem"));
        config.access.key = Some(self.path("client-key.pem"));
        config
    }
}

/// A user's name and the file with the password.
struct User {
    name: &'static str,
    file: PathBuf,
}

impl User {
    fn new(scratch: &TempDir, name: &'static str, password: &str) -> Self {
        let file = scratch.path().join(format!("{name}.password"));
        write(&file, &format!("{password}\n"), 0o600);
        Self { name, file }
    }

    fn args(&self) -> Vec<String> {
        let file = self.file.display().to_string();
        ["--etcd-user", self.name, "--etcd-password-file", &file]
            .map(str::to_owned)
            .to_vec()
    }

    fn config(&self, stage: &TestCluster) -> EtcdConfig {
        let mut config = EtcdConfig::new(stage.etcd.endpoints());
        config.access.user = Some(self.name.to_owned());
        config.access.password_file = Some(self.file.clone());
        config
    }
}

fn curator(stage: &TestCluster, args: &[&str], access: &[String]) -> Finished {
    let mut command = Command::new(binary_from_env().unwrap());
    command
        .args(args)
        .args(["--etcd-endpoints", &stage.etcd.endpoints().join(",")])
        .args(access);
    run(command, SOON).unwrap()
}

fn export(stage: &TestCluster, name: &str, access: &[String]) -> Finished {
    let out = stage.scratch.path().join(name).display().to_string();
    curator(stage, &["export", "--out", &out], access)
}

fn bootstrap(stage: &TestCluster, access: &[String]) -> Finished {
    let key = "01".repeat(32);
    let keys = [
        "--node-public-key",
        &key,
        "--join-public-key",
        &key,
        "--owner-public-key",
        &key,
    ];
    curator(stage, &[&["bootstrap"][..], &keys].concat(), access)
}

fn start_three(stage: &mut TestCluster, access: &[String]) -> usize {
    for member in 0..3 {
        stage.start(member, Reach::All, |options| CuratorOptions {
            extra_args: access.to_vec(),
            ..options.leader_ttl(TTL)
        });
    }
    stage.agreed(SOON)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn put(key: &str, value: &str) -> Txn {
    Txn::default().then(vec![Op::put(key.to_owned(), value.to_owned())])
}

/// Writes all the time; what goes wrong with a write ends it.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<Result<(), StoreError>>,
}

impl Load {
    fn start(runtime: &tokio::runtime::Runtime, store: Arc<EtcdStore>) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, count) = (stop.clone(), written.clone());
        let writes = async move {
            while !stopped.load(Ordering::Relaxed) {
                store.txn(put("namespaced:curator/load", "x")).await?;
                store.range(Range::all(Keys::one("namespaced:curator/load"))).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let task = runtime.spawn(writes);
        Self { stop, written, task }
    }

    /// Waits until so many more writes have been answered.
    fn goes_on(&self) {
        let from = self.written.load(Ordering::Relaxed);
        curator_harness::wait_until("writes to go on", SOON, || {
            (self.task.is_finished() || self.written.load(Ordering::Relaxed) > from + 20).then_some(())
        })
        .unwrap();
    }

    fn end(self, runtime: &tokio::runtime::Runtime) {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(self.task).unwrap().unwrap();
        assert!(self.written.load(Ordering::Relaxed) > 20);
    }
}

const IN_USE: &str = "etcd client reloaded its credential files";

fn all_use_new_files(stage: &TestCluster, marks: &[Mark]) {
    for (curator, mark) in stage.curators.iter().zip(marks) {
        curator
            .wait_for(*mark, SOON, IN_USE, |event| event.message() == Some(IN_USE))
            .unwrap();
    }
}

#[test]
fn three_instances_elect_over_tls_with_client_certificates() {
    let files = Files::new("tls-files");
    let mut stage = TestCluster::empty("tls", files.etcd());
    let made = bootstrap(&stage, &files.args());
    assert!(made.status.success(), "{}", made.stderr);
    let leader = start_three(&mut stage, &files.args());
    let exported = export(&stage, "state", &files.args());
    assert!(exported.status.success(), "{}", exported.stderr);
    let file = stage.scratch.path().join("state").display().to_string();
    let imported = curator(&stage, &["import", "--etcd-namespace", "another", &file], &files.args());
    assert!(imported.status.success(), "{}", imported.stderr);
    let marks = stage.marks();
    stage.curators[leader].terminate().unwrap();
    let (next, _) = stage.next_leader(&stage.others(leader), &marks, SOON);
    assert_ne!(next, leader);
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn what_keeps_tls_from_working_is_told() {
    let files = Files::new("told-files");
    let mut stage = TestCluster::empty("told", files.etcd());
    let stranger = Authority::new();
    write(&files.path("wrong-ca.pem"), &stranger.pem, 0o644);
    files.rotate("stranger", &stranger);
    let with = |ca: &str, client: Option<&str>| {
        let mut args = vec!["--etcd-ca".to_owned(), files.text(ca)];
        if let Some(client) = client {
            let (certificate, key) = (format!("{client}.pem"), format!("{client}-key.pem"));
            args.extend(["--etcd-cert".to_owned(), files.text(&certificate)]);
            args.extend(["--etcd-key".to_owned(), files.text(&key)]);
        }
        args
    };
    let wrong_ca = with("wrong-ca.pem", Some("client"));
    let cases = [
        (
            wrong_ca.clone(),
            "not valid for this endpoint, or is not issued by the configured CA",
        ),
        (with("ca.pem", None), "requires a client certificate"),
        (with("ca.pem", Some("stranger")), "requires a client certificate"),
    ];
    for (args, told) in &cases {
        let finished = export(&stage, "never", args);
        assert_eq!(finished.status.code(), Some(1), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(told), "{args:?}: {}", finished.stderr);
    }
    // An instance waits, says why, and begins once the file is right.
    let waiting = stage.start(0, Reach::All, |options| CuratorOptions {
        extra_args: wrong_ca,
        ..options
    });
    let wanted = "not valid for this endpoint";
    let is_told =
        |event: &curator_harness::Event| event.message() == Some("waiting for etcd") && event.text.contains(wanted);
    stage.curators[waiting]
        .wait_for(Mark::START, SOON, "the reason", is_told)
        .unwrap();
    write(
        &files.path("wrong-ca.pem"),
        &fs::read_to_string(files.path("ca.pem")).unwrap(),
        0o644,
    );
    assert_eq!(stage.agreed(SOON), waiting);

    // What cannot work is refused at once.
    fs::set_permissions(files.path("stranger-key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = with("ca.pem", Some("stranger"));
    files.rotate("other", &stranger);
    let mut pair = with("ca.pem", Some("client"));
    pair[5] = files.text("other-key.pem");
    for (args, told) in [(open, "chmod 600"), (pair, "do not match"), (Vec::new(), "--etcd-ca")] {
        let finished = export(&stage, "never", &args);
        assert_eq!(finished.status.code(), Some(1), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(told), "{args:?}: {}", finished.stderr);
    }
}

#[test]
fn rotated_certificates_are_used_without_a_failed_call_and_the_leader_keeps_its_term() {
    let files = Files::new("rotation-files");
    let mut stage = TestCluster::empty("rotation", files.etcd());
    let leader = start_three(&mut stage, &files.args());
    let revision = stage.lock_revision(leader);
    let runtime = runtime();
    let store = Arc::new(EtcdStore::new(files.config(&stage)).unwrap());
    let following = runtime.spawn({
        let store = store.clone();
        async move { store.follow_files().await }
    });
    let load = Load::start(&runtime, store.clone());
    load.goes_on();
    let marks = stage.marks();

    // Half a rotation: the key is not that of the certificate, and nothing changes.
    let successor = Authority::new();
    let (certificate, key) = successor.issue();
    write(&files.path("client-key.pem"), &key, 0o600);
    let refused = |event: &curator_harness::Event| event.text.contains("do not match");
    stage.curators[leader]
        .wait_for(marks[leader], SOON, "half a rotation", refused)
        .unwrap();
    load.goes_on();
    // Nor does etcd know the new authority: it is tried, and what there was stays in use.
    write(&files.path("client.pem"), &certificate, 0o644);
    let refused = |event: &curator_harness::Event| event.text.contains("requires a client certificate");
    stage.curators[leader]
        .wait_for(marks[leader], SOON, "strange files", refused)
        .unwrap();
    load.goes_on();

    // Members that know both, one after the other.
    load.end(&runtime);
    let restart_all = |trusted: &str| {
        write(&files.path("clients.pem"), trusted, 0o644);
        for member in 0..3 {
            stage.etcd.restart(member).unwrap();
            stage.etcd.wait_member_healthy(member, SOON).unwrap();
        }
        stage.etcd.wait_healthy(SOON).unwrap();
    };
    let unknown = stage.marks();
    restart_all(&format!("{}{}", files.clients.pem, successor.pem));
    all_use_new_files(&stage, &unknown);
    let both = Load::start(&runtime, store.clone());
    both.goes_on();
    // A whole rotation under load.
    let marks = stage.marks();
    files.rotate("client", &successor);
    all_use_new_files(&stage, &marks);
    both.goes_on();
    both.end(&runtime);

    // From now on only the new certificates open a connection.
    files.rotate("etcdctl", &successor);
    restart_all(&successor.pem);
    let only = Load::start(&runtime, store);
    only.goes_on();
    only.end(&runtime);
    following.abort();
    assert_eq!(stage.agreed(SOON), leader);
    assert_eq!(stage.lock_revision(leader), revision, "the leader has kept its term");
}

#[test]
fn a_user_whose_role_is_the_namespace_is_enough() {
    let mut stage = TestCluster::empty("user", EtcdOptions::default());
    let user = User::new(&stage.scratch, "curator", "right");
    stage.etcd.add_user("curator", "right", &NAMESPACES).unwrap();
    stage.etcd.add_user("elsewhere", "right", &["another/"]).unwrap();
    stage.etcd.enable_auth("root").unwrap();

    let elsewhere = User::new(&stage.scratch, "elsewhere", "right");
    let wrong = stage.scratch.path().join("wrong");
    write(&wrong, "wrong", 0o600);
    let mut wrong_password = user.args();
    wrong_password[3] = wrong.display().to_string();
    let cases = [
        (wrong_password.clone(), "etcd rejected the user and password"),
        (elsewhere.args(), "etcd denied permission to its user"),
        (Vec::new(), "etcd requires a user"),
    ];
    for (args, told) in cases {
        let finished = export(&stage, "never", &args);
        assert_eq!(finished.status.code(), Some(1), "{args:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(told), "{args:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("no answer"), "{args:?}: {}", finished.stderr);
    }
    let made = bootstrap(&stage, &user.args());
    assert!(made.status.success(), "{}", made.stderr);
    let exported = export(&stage, "state", &user.args());
    assert!(exported.status.success(), "{}", exported.stderr);

    let waiting = stage.start(0, Reach::All, |options| CuratorOptions {
        extra_args: wrong_password,
        ..options
    });
    let told = "etcd refused the request";
    let is_told = |event: &curator_harness::Event| event.message() == Some(told);
    stage.curators[waiting]
        .wait_for(Mark::START, SOON, told, is_told)
        .unwrap();
    write(&wrong, "right", 0o600);
    stage.agreed(SOON);
    stage.curators.clear();
    let leader = start_three(&mut stage, &user.args());
    let marks = stage.marks();
    stage.curators[leader].terminate().unwrap();
    stage.next_leader(&stage.others(leader), &marks, SOON);
    for curator in &stage.curators {
        let shown = fs::read_to_string(curator.log()).unwrap();
        assert!(
            !shown.contains("right"),
            "the password is in {}",
            curator.log().display()
        );
    }
}

#[test]
fn a_password_is_changed_and_the_leader_keeps_its_term() {
    let mut stage = TestCluster::empty("password", EtcdOptions::default());
    stage.etcd.add_user("curator", "first", &NAMESPACES).unwrap();
    stage.etcd.enable_auth("root").unwrap();
    let user = User::new(&stage.scratch, "curator", "first");
    let leader = start_three(&mut stage, &user.args());
    let revision = stage.lock_revision(leader);
    let runtime = runtime();
    let store = Arc::new(EtcdStore::new(user.config(&stage)).unwrap());
    let load = Load::start(&runtime, store.clone());
    load.goes_on();

    // The file first: the new password is tried, and the old token stays in use until etcd knows it. No call fails.
    let marks = stage.marks();
    write(&user.file, "second", 0o600);
    let refused = |event: &curator_harness::Event| event.text.contains("etcd rejected the user and password");
    stage.curators[leader]
        .wait_for(marks[leader], SOON, "it to be tried", refused)
        .unwrap();
    load.goes_on();
    runtime.block_on(change_password(&stage, "second"));
    all_use_new_files(&stage, &marks);
    load.goes_on();
    load.end(&runtime);

    // etcd first: calls are refused, as what they are, until the file has it.
    runtime.block_on(change_password(&stage, "third"));
    let refused = runtime
        .block_on(store.txn(put("namespaced:curator/k", "v")))
        .unwrap_err();
    let is_told =
        matches!(&refused, StoreError::Refused { reason, .. } if reason.contains("rejected the user and password"));
    assert!(is_told, "{refused}");
    let marks = stage.marks();
    write(&user.file, "third", 0o600);
    runtime.block_on(store.txn(put("namespaced:curator/k", "v"))).unwrap();
    all_use_new_files(&stage, &marks);
    assert_eq!(stage.agreed(SOON), leader);
    assert_eq!(stage.lock_revision(leader), revision, "the leader has kept its term");
}

#[test]
fn leader_goes_on_while_authentication_is_disabled_and_says_so() {
    const OPEN: &str = "etcd has authentication disabled";
    let mut stage = TestCluster::empty("auth-disabled", EtcdOptions::default());
    stage.etcd.add_user("curator", "right", &NAMESPACES).unwrap();
    stage.etcd.enable_auth("root").unwrap();
    let user = User::new(&stage.scratch, "curator", "right");
    let leader = start_three(&mut stage, &user.args());
    let marks = stage.marks();
    let revision = stage.lock_revision(leader);
    let runtime = runtime();
    let store = Arc::new(EtcdStore::new(user.config(&stage)).unwrap());
    let load = Load::start(&runtime, store);
    load.goes_on();
    runtime.block_on(async {
        root(&stage).await.auth_disable().await.unwrap();
    });
    load.goes_on();
    // One that starts meanwhile, and all of them once it is enabled again.
    let another = stage.start(0, Reach::All, |options| CuratorOptions {
        extra_args: user.args(),
        ..options.leader_ttl(TTL)
    });
    assert_ne!(stage.agreed(SOON), another);
    let is_told = |event: &curator_harness::Event| event.message().is_some_and(|said| said.starts_with(OPEN));
    stage.curators[another]
        .wait_for(Mark::default(), SOON, OPEN, is_told)
        .unwrap();
    // Newer patches of etcd take no notice of the tokens that there are; older ones refuse them, and then it is told,
    // once.
    for (curator, mark) in stage.curators.iter().zip(&marks) {
        let told = curator.events_since(*mark);
        let times = told.iter().filter(|event| is_told(event)).count();
        assert!(times <= 1, "{}: {times}", curator.name());
    }
    runtime.block_on(async {
        let mut anybody = etcd_client::Client::connect(stage.etcd.endpoints(), None)
            .await
            .unwrap();
        anybody.auth_enable().await.unwrap();
    });
    load.goes_on();
    load.end(&runtime);
    assert_eq!(stage.agreed(SOON), leader);
    assert_eq!(stage.lock_revision(leader), revision, "the leader has kept its term");
    let marks = stage.marks();
    stage.curators[leader].terminate().unwrap();
    stage.next_leader(&stage.others(leader), &marks, SOON);
}

async fn root(stage: &TestCluster) -> etcd_client::Client {
    let options = etcd_client::ConnectOptions::new().with_user("root", "root");
    etcd_client::Client::connect(stage.etcd.endpoints(), Some(options))
        .await
        .unwrap()
}

async fn change_password(stage: &TestCluster, password: &str) {
    let mut root = root(stage).await;
    root.user_change_password("curator", password).await.unwrap();
}

/// Every kind of call, each with a token that has run out or was overtaken, and a watch that was there before.
async fn calls_with_old_tokens(config: EtcdConfig, make_old: impl AsyncFn()) {
    let fresh = async || {
        let store = EtcdStore::new(config.clone()).unwrap();
        store
            .range(Range::all(Keys::one("namespaced:curator/a")))
            .await
            .unwrap();
        store
    };
    let key = |name: &str| format!("namespaced:curator/{name}");
    let (watching, reading, writing, opening, leasing) = (
        fresh().await,
        fresh().await,
        fresh().await,
        fresh().await,
        fresh().await,
    );
    let told = first_put(&watching, key("watched")).await;
    let lease = leasing.grant(Duration::from_secs(60)).await.unwrap();
    make_old().await;
    reading.range(Range::all(Keys::one(key("a")))).await.unwrap();
    writing.txn(put(&key("watched"), "1")).await.unwrap();
    let told_later = first_put(&opening, key("later")).await;
    leasing.keep_alive(lease.id, 0).await.unwrap();
    assert_eq!(told.await.unwrap(), "1");
    make_old().await;
    leasing.revoke(lease.id).await.unwrap();
    writing.grant(Duration::from_secs(60)).await.unwrap();
    writing.txn(put(&key("later"), "2")).await.unwrap();
    assert_eq!(told_later.await.unwrap(), "2");
}

/// Watches a key from now on; the value that it gets first.
async fn first_put(store: &EtcdStore, key: String) -> tokio::task::JoinHandle<Bytes> {
    let mut watch = store.watch(Keys::one(key), Revision(0)).await.unwrap();
    tokio::spawn(async move {
        let put = async {
            loop {
                let batch = watch.next().await.unwrap().unwrap();
                if let Some(Event::Put(kv)) = batch.events.into_iter().next() {
                    return kv.value;
                }
            }
        };
        tokio::time::timeout(SOON, put).await.unwrap()
    })
}

#[test]
fn tokens_that_have_run_out_are_renewed() {
    let options = EtcdOptions {
        extra_args: vec!["--auth-token-ttl".into(), "1".into()],
        ..EtcdOptions::default()
    };
    let mut stage = TestCluster::empty("tokens", options);
    stage.etcd.add_user("curator", "right", &NAMESPACES).unwrap();
    stage.etcd.enable_auth("root").unwrap();
    let user = User::new(&stage.scratch, "curator", "right");
    let leader = start_three(&mut stage, &user.args());
    let marks = stage.marks();
    // A token lives for one second after its last use, and etcd looks each second.
    let run_out = async || tokio::time::sleep(Duration::from_secs(4)).await;
    runtime().block_on(calls_with_old_tokens(user.config(&stage), run_out));
    // Longer than two renewals of the lease, each with a token that had run out.
    assert_eq!(stage.curators[leader].roles_since(marks[leader]).len(), 0);
    stage.curators[leader].terminate().unwrap();
    stage.next_leader(&stage.others(leader), &marks, SOON);
    stage.agreed(SOON);
    stage.nobody_led_beside_another();
}

#[test]
fn tokens_that_are_older_than_the_users_are_renewed() {
    let scratch = TempDir::new("jwt-key").unwrap();
    let key = scratch.path().join("key");
    write(&key, "a secret for tests, of some length", 0o600);
    let options = EtcdOptions {
        members: 1,
        peer_proxies: false,
        extra_args: vec![
            "--auth-token".into(),
            format!("jwt,priv-key={},sign-method=HS256,ttl=10m", key.display()),
        ],
        ..EtcdOptions::default()
    };
    let stage = TestCluster::empty("jwt", options);
    stage.etcd.add_user("curator", "right", &NAMESPACES).unwrap();
    stage.etcd.enable_auth("root").unwrap();
    let user = User::new(&stage.scratch, "curator", "right");
    let number = AtomicU32::new(0);
    let overtaken = async || {
        let name = format!("other-{}:x", number.fetch_add(1, Ordering::Relaxed));
        stage.etcd.etcdctl(At::Any, &["user", "add", &name], SOON).unwrap();
    };
    runtime().block_on(calls_with_old_tokens(user.config(&stage), overtaken));
}
