//! Strangers who mean no good, at a real process with TLS: what they cost it, and what those notice who mean well.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use curator_harness::curator::binary_from_env;
use curator_harness::process::run;
use curator_harness::{CuratorOptions, CuratorProcess, Mark, TempDir};
use curator_proto::curator_api::RegisterNodeRequest;
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::test_cluster::{SOON, TTL, resident};

/// How long each kind of abuse lasts.
const LASTS: Duration = Duration::from_secs(3);
/// As much more memory it may cost, in KiB, while it lasts.
const DURING: u64 = 96 << 10;
/// The longest that an honest call may take, on a machine that attackers and attacked share: a connection whose first
/// packet finds no room in the system's queue is asked for again after 1 s, and 2 s later.
const SLOWEST: Duration = Duration::from_secs(4);
/// A call that a node may make, and that only the leader answers.
const HONEST: &str = "/metropolis.node.core.curator.proto.api.Curator/GetConsensusStatus";
const REGISTER: &str = "/metropolis.node.core.curator.proto.api.Curator/RegisterNode";
const APPROVE: &str = "/metropolis.proto.api.Management/ApproveNode";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Somebody with a certificate, or none.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    /// From which address of this host it connects.
    host: u8,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Client {
    fn new(
        address: SocketAddr,
        host: u8,
        server: &str,
        ca: &CertificateDer<'static>,
        shows: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shows {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Self {
            address,
            host,
            name: server.to_owned().try_into().unwrap(),
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, Failure> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, self.host)), 0))?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        // Thousands of ports would be taken for a minute.
        stream.set_zero_linger()?;
        Ok(stream)
    }

    async fn shaken(&self) -> Result<TlsStream<TcpStream>, Failure> {
        Ok(self.tls.connect(self.name.clone(), self.tcp().await?).await?)
    }

    async fn open(&self, drivers: &mut JoinSet<()>) -> Result<SendRequest<Bytes>, Failure> {
        let (requests, connection) = h2::client::handshake(self.shaken().await?).await?;
        drivers.spawn(async move {
            let _ = connection.await;
        });
        Ok(requests)
    }

    fn request(&self, path: &str) -> Request<()> {
        let request = Request::post(format!("https://{}{path}", self.address));
        let request = request
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        request.body(()).unwrap()
    }

    /// Calls, and returns the code and the message.
    async fn call(
        &self,
        requests: SendRequest<Bytes>,
        path: &str,
        message: Bytes,
    ) -> Result<(String, String), Failure> {
        let mut requests = requests.ready().await?;
        let (response, mut stream) = requests.send_request(self.request(path), false)?;
        // Whoever needs no message may answer before it comes, and close the stream: the answer counts (RFC 9113,
        // section 8.1).
        let sent = stream.send_data(message, true);
        let (parts, mut body) = match response.await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                sent?;
                return Err(error.into());
            }
        };
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or(parts.headers);
        let text = |name: &str| {
            trailers
                .get(name)
                .map_or("", |value| value.to_str().unwrap_or(""))
                .to_owned()
        };
        Ok((text("grpc-status"), text("grpc-message")))
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

/// What those who mean well have seen.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    connections: AtomicU64,
    failures: std::sync::Mutex<Vec<String>>,
    nanoseconds: std::sync::Mutex<Vec<u64>>,
    stop: AtomicBool,
}

impl Seen {
    fn note(&self, began: Instant, outcome: &Result<(String, String), Failure>) {
        match outcome {
            Ok((code, _)) if code == "0" => {
                let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.nanoseconds.lock().unwrap().push(took);
                self.calls.fetch_add(1, Ordering::Relaxed);
            }
            other => self.failures.lock().unwrap().push(format!("{other:?}")),
        }
    }
}

/// Calls on one connection, and on a new one for each.
async fn mean_well(client: Client, seen: Arc<Seen>) {
    let anew = {
        let (client, seen) = (client.clone(), seen.clone());
        tokio::spawn(async move {
            while !seen.stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let mut drivers = JoinSet::new();
                let outcome = async {
                    let requests = client.open(&mut drivers).await?;
                    client.call(requests, HONEST, Bytes::from_static(&[0; 5])).await
                };
                let outcome = outcome.await;
                seen.note(began, &outcome);
                seen.connections.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let mut drivers = JoinSet::new();
    match client.open(&mut drivers).await {
        Ok(requests) => {
            while !seen.stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let outcome = client.call(requests.clone(), HONEST, Bytes::from_static(&[0; 5])).await;
                seen.note(began, &outcome);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Err(error) => seen.failures.lock().unwrap().push(error.to_string()),
    }
    anew.await.unwrap();
}

/// One kind of abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Silent,
    HalfHello,
    Handshakes,
    Spoken,
    Headers,
    Resets,
    Uploads,
    Registers,
}

impl Kind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Nothing, "nothing at all"),
        (Self::Silent, "connections that say nothing, 3,000 at a time"),
        (Self::HalfHello, "half a first word of TLS, 3,000 at a time"),
        (Self::Handshakes, "whole handshakes, 32 at a time"),
        (Self::Spoken, "connections that never call, 500 at a time"),
        (Self::Headers, "headers without an end, 8 at a time"),
        (Self::Resets, "calls that are reset at once, 8 connections"),
        (Self::Uploads, "uploads of 4 GiB without a certificate, 64 at a time"),
        (Self::Registers, "registering without the ticket, 32 at a time"),
    ];

    const fn lanes(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Silent | Self::HalfHello => 3_000,
            Self::Spoken => 500,
            Self::Handshakes | Self::Registers => 32,
            Self::Headers | Self::Resets => 8,
            Self::Uploads => 64,
        }
    }
}

/// Abuses once, or until cut off. Failures are what it is there for.
async fn abuse(kind: Kind, client: &Client, sent: &AtomicU64) -> Result<(), Failure> {
    match kind {
        Kind::Nothing => {}
        Kind::Silent | Kind::HalfHello => {
            let mut stream = client.tcp().await?;
            sent.fetch_add(1, Ordering::Relaxed);
            if kind == Kind::HalfHello {
                stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).await?;
            }
            stream.read_u8().await?;
        }
        Kind::Handshakes => {
            client.shaken().await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        Kind::Spoken => {
            let (requests, connection) = h2::client::handshake(client.shaken().await?).await?;
            sent.fetch_add(1, Ordering::Relaxed);
            connection.await?;
            drop(requests);
        }
        Kind::Headers => {
            let mut stream = client.shaken().await?;
            let frame = |kind: u8, payload: &[u8]| {
                let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
                let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, u8::from(kind != 4)];
                frame.extend_from_slice(payload);
                frame
            };
            let mut field = vec![0x00, 0x01, b'a', 100];
            field.resize(104, b'x');
            let block = field.repeat(150);
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
            stream.write_all(&frame(4, &[])).await?;
            stream.write_all(&frame(1, &block)).await?;
            loop {
                stream.write_all(&frame(9, &block)).await?;
                stream.flush().await?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        Kind::Resets => {
            let mut drivers = JoinSet::new();
            let requests = client.open(&mut drivers).await?;
            loop {
                let mut ready = requests.clone().ready().await?;
                for _ in 0..50 {
                    let Ok((_, mut stream)) = ready.send_request(client.request(HONEST), false) else {
                        break;
                    };
                    stream.send_reset(h2::Reason::CANCEL);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                tokio::task::yield_now().await;
            }
        }
        Kind::Uploads => {
            let mut drivers = JoinSet::new();
            let mut requests = client.open(&mut drivers).await?.ready().await?;
            let (response, mut stream) = requests.send_request(client.request(APPROVE), false)?;
            let mut piece = vec![0, 0xff, 0xff, 0xff, 0xff];
            piece.resize(16 << 10, 7);
            let piece = Bytes::from(piece);
            loop {
                stream.reserve_capacity(piece.len());
                match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                    Some(Ok(capacity)) => {
                        let piece = piece.slice(..capacity.min(piece.len()));
                        sent.fetch_add(u64::try_from(piece.len())?, Ordering::Relaxed);
                        stream.send_data(piece, false)?;
                    }
                    _ => break,
                }
            }
            let answer = response.await?;
            assert_eq!(answer.headers()["grpc-status"], "16", "unauthenticated");
        }
        Kind::Registers => {
            let mut drivers = JoinSet::new();
            let requests = client.open(&mut drivers).await?;
            let message = framed(&RegisterNodeRequest {
                register_ticket: vec![7; 34],
                join_key: vec![7; 32],
                have_local_tpm: true,
                labels: None,
            });
            loop {
                let (code, message) = client.call(requests.clone(), REGISTER, message.clone()).await?;
                assert_eq!(code, "7", "{message}");
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// A cluster of one node, its state in a directory and its credentials in another; returns its id and its key.
fn bootstrap(state: &Path, credentials: &Path) -> (String, KeyPair) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let hex: String = key.public_key_raw().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new(binary_from_env().unwrap());
    command.args(["bootstrap", "--embedded", state.to_str().unwrap()]);
    command.args(["--out", credentials.to_str().unwrap()]);
    command.args(["--node-public-key", &hex, "--join-public-key", &"01".repeat(32)]);
    command.args(["--owner-public-key", &"02".repeat(32)]);
    let made = run(command, SOON).unwrap();
    assert!(made.status.success(), "{}", made.stderr);
    let text = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(key.serialize_der())
    );
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(credentials.join("node-key.pem"))
        .unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    (format!("metropolis-{}", &hex[..32]), key)
}

#[test]
fn whoever_means_well_is_served_while_others_do_not() {
    if crate::test_cluster::done_already() {
        return;
    }
    raise_file_limit();
    let scratch = TempDir::new("abuse").unwrap();
    let (state, credentials) = (scratch.path().join("state"), scratch.path().join("credentials"));
    let (id, key) = bootstrap(&state, &credentials);
    let mut options = CuratorOptions::new(1, Vec::new()).leader_ttl(TTL);
    options.node_id.clone_from(&id);
    options.credentials = Some(credentials.clone());
    options.extra_args = vec!["--embedded".into(), state.display().to_string()];
    let curator = CuratorProcess::start(&binary_from_env().unwrap(), &scratch, options).unwrap();
    curator
        .wait_for_role(Mark::START, SOON, "leading", |role| role.is_leader())
        .unwrap();

    let pem = |name: &str| CertificateDer::from_pem_file(credentials.join(name)).unwrap();
    let ca = pem("ca.pem");
    let der = |key: &KeyPair| PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let honest = Client::new(curator.address(), 1, &id, &ca, Some((pem("node.pem"), der(&key))));
    let strange = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let certificate = CertificateParams::new(Vec::new())
        .unwrap()
        .self_signed(&strange)
        .unwrap();
    let shown = (CertificateDer::from(certificate.der().to_vec()), der(&strange));
    let stranger = Client::new(curator.address(), 66, &id, &ca, Some(shown));

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!("measured: | abuse | times | honest calls/s | p99 ms | new connections/s | KiB before | most | after |");
    for (kind, name) in Kind::ALL {
        let before = resident(curator.pid());
        let (seen, sent) = (Arc::new(Seen::default()), Arc::new(AtomicU64::new(0)));
        let mut most = before;
        runtime.block_on(async {
            let meaning_well = tokio::spawn(mean_well(honest.clone(), seen.clone()));
            let mut lanes = JoinSet::new();
            for _ in 0..kind.lanes() {
                let (stranger, sent) = (stranger.clone(), sent.clone());
                lanes.spawn(async move {
                    loop {
                        // Whoever is cut off comes again.
                        let _ = abuse(kind, &stranger, &sent).await;
                        tokio::task::yield_now().await;
                    }
                });
            }
            let began = Instant::now();
            while began.elapsed() < LASTS {
                tokio::time::sleep(Duration::from_millis(50)).await;
                most = most.max(resident(curator.pid()));
            }
            seen.stop.store(true, Ordering::Relaxed);
            // A lane that ended has seen an answer that it must not.
            if let Some(Err(wrong)) = lanes.try_join_next() {
                panic!("{name}: {wrong}");
            }
            // Before the last honest call is waited for: on a machine that is busy with more than this, it may come
            // late, which its time tells.
            lanes.shutdown().await;
            tokio::time::timeout(SOON, meaning_well).await.unwrap().unwrap();
        });
        let after = resident(curator.pid());
        let mut times = std::mem::take(&mut *seen.nanoseconds.lock().unwrap());
        times.sort_unstable();
        let p99 = Duration::from_nanos(times[times.len() * 99 / 100]);
        let a_second = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64 / LASTS.as_secs_f64();
        println!(
            "measured: | {name} | {} | {:.0} | {:.1} | {:.0} | {before} | {most} | {after} |",
            sent.load(Ordering::Relaxed),
            a_second(&seen.calls),
            p99.as_secs_f64() * 1e3,
            a_second(&seen.connections),
        );
        let failures = seen.failures.lock().unwrap();
        assert!(failures.is_empty(), "{name}: {:?}", failures.first());
        assert!(p99 < SLOWEST, "{name}: {p99:?}");
        assert!(most < before + DURING, "{name}: {before} KiB became {most} KiB");
        assert!(
            kind == Kind::Nothing || sent.load(Ordering::Relaxed) > 0,
            "{name}: nothing was done"
        );
    }
    // What it says to strangers.
    runtime.block_on(async {
        for (path, code) in [
            (HONEST, "16"),
            (APPROVE, "16"),
            (REGISTER, "7"),
            ("/no.Such/Thing", "12"),
        ] {
            let mut drivers = JoinSet::new();
            let requests = stranger.open(&mut drivers).await.unwrap();
            let message = framed(&RegisterNodeRequest {
                join_key: vec![7; 32],
                ..RegisterNodeRequest::default()
            });
            let (told, message) = stranger.call(requests, path, message).await.unwrap();
            assert_eq!(told, code, "{path}: {message}");
            let inside = [
                state.to_str().unwrap(),
                credentials.to_str().unwrap(),
                "/nodes/",
                ".pem",
            ];
            assert!(inside.iter().all(|word| !message.contains(word)), "{path}: {message}");
        }
    });
}
