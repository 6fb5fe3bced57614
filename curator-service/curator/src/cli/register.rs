//! `curator register`: adds this machine to a cluster as a node, and fetches its certificate.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use curator_proto::admin_api::IssueOwnRequest;
use curator_proto::admin_api::certificates_client::CertificatesClient;
use curator_proto::common::{NodeLabels, NodeStorageSecurity, node_labels};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{CommitNodeRequest, CommitNodeResponse, RegisterNodeRequest};
use curator_service::{
    ClientCredentials, CredentialsDirectory, NO_PROOF, Trust, credential_names as names, node_id, read_certificate,
    retry_delay, wall_clock,
};
use ring::digest::{SHA256, digest};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::cli::options::{parse_duration, parse_hex, parse_label};

/// Timeout of one call; longer than a failover usually takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Length of the cluster's part of a disk encryption key.
const UNLOCK_KEY_BYTES: usize = 32;
/// How often to poll for the approval.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The cluster, and the properties of this node.
#[derive(Args)]
pub(crate) struct Register {
    /// Address of any instance, as host:port.
    #[arg(long, env = "CURATOR_ADDRESS", value_name = "ADDRESS")]
    address: String,

    /// Directory for the node's credentials, for `curator serve`. Missing keys (node-key.pem, join-key.pem) are
    /// generated; ca.pem and node.pem come from the cluster.
    #[arg(long, env = "CURATOR_CREDENTIALS", value_name = "DIR")]
    credentials: PathBuf,

    /// CA certificate used to verify the cluster. Copy it from another node [default: ca.pem in the credentials
    /// directory].
    #[arg(long, env = "CURATOR_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Accept only these nodes as instances: ids of consensus members, separated by commas or given by repeated flags.
    /// Only they receive the ticket and the unlock key [default: any node that proves to be a consensus member].
    #[arg(long, env = "CURATOR_MEMBERS", value_name = "NODE", value_delimiter = ',')]
    member: Vec<String>,

    /// Accept any node of the cluster as an instance, without proof that it is a consensus member. Needed if the Go
    /// Curator or an earlier release leads the cluster. Then the holder of any node certificate, even of a deleted
    /// node, can receive the ticket.
    #[arg(long, env = "CURATOR_ANY_NODE", conflicts_with = "member")]
    any_node: bool,

    /// Register ticket of the cluster, in hex. It is a secret: prefer the environment variable.
    #[arg(long, env = "CURATOR_REGISTER_TICKET", value_name = "HEX", value_parser = parse_hex, hide_env_values = true)]
    ticket: Hex,

    /// Report that this node has a TPM.
    #[arg(long)]
    tpm: bool,

    /// Storage security of this node.
    #[arg(long, value_enum, default_value_t = Storage::AuthenticatedEncrypted)]
    storage_security: Storage,

    /// File with the cluster's part of this node's disk encryption key, 32 bytes; required if the storage is encrypted.
    #[arg(long, env = "CURATOR_CLUSTER_UNLOCK_KEY_FILE", value_name = "FILE")]
    cluster_unlock_key_file: Option<PathBuf>,

    /// Label of the node, as key=value; may be repeated.
    #[arg(long, value_name = "LABEL", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// How long to wait for the approval.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    wait: Duration,
}

/// Bytes that are given in hex.
pub(crate) type Hex = std::sync::Arc<[u8]>;

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    Insecure,
    Encrypted,
    AuthenticatedEncrypted,
}

impl Storage {
    const fn in_proto(self) -> NodeStorageSecurity {
        match self {
            Self::Insecure => NodeStorageSecurity::Insecure,
            Self::Encrypted => NodeStorageSecurity::Encrypted,
            Self::AuthenticatedEncrypted => NodeStorageSecurity::AuthenticatedEncrypted,
        }
    }
}

impl Register {
    /// Registers, waits for the approval, and fetches the certificate.
    pub(crate) fn run(&self) -> ExitCode {
        let done = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(self.register()));
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn register(&self) -> Result<(), Box<dyn Error>> {
        let unlock_key = self.unlock_key()?;
        let directory = CredentialsDirectory::create(&self.credentials)?;
        if directory.has(names::NODE) {
            let path = directory.path(names::NODE);
            return Err(format!("{} exists: this machine is already a node of a cluster", path.display()).into());
        }
        let in_directory = directory.path(names::CA);
        let ca = read_certificate(self.ca.as_ref().unwrap_or(&in_directory))?;
        let (key, join_key) = (directory.key(names::NODE_KEY)?, directory.key(names::JOIN_KEY)?);
        let id = node_id(key.public_key()).unwrap_or_default();
        let trust = match self.member.as_slice() {
            [] if self.any_node => Trust::Cluster { ca: ca.clone() },
            [] => Trust::Instances { ca: ca.clone() },
            members => Trust::Members {
                ca: ca.clone(),
                node_ids: members.to_vec(),
            },
        };
        let client = ClientCredentials::with_key(trust, &key, wall_clock())?;
        let channel = client.channel(&self.address)?;
        println!("node id: {id}; key SHA-256: {}", sha256(key.public_key()));
        let pairs = self.label.iter().map(|(key, value)| node_labels::Pair {
            key: key.clone(),
            value: value.clone(),
        });
        let newcomer = Newcomer {
            address: &self.address,
            id: &id,
            curator: CuratorClient::new(channel.clone()),
            certificates: CertificatesClient::new(channel),
            register: RegisterNodeRequest {
                register_ticket: self.ticket.to_vec(),
                join_key: join_key.public_key().to_vec(),
                have_local_tpm: self.tpm,
                labels: Some(NodeLabels { pairs: pairs.collect() }),
            },
            commit: CommitNodeRequest {
                cluster_unlock_key: unlock_key,
                storage_security: self.storage_security.in_proto().into(),
            },
        };
        let committed = timeout(self.wait, newcomer.run()).await;
        let late = |_| {
            format!(
                "not approved within {:?}: approve {id} and run this command again to continue",
                self.wait
            )
        };
        let committed = committed.map_err(late)??;
        if committed.ca_certificate != ca {
            return Err("the cluster returned a different CA certificate: nothing was written".into());
        }
        if !directory.has(names::CA) {
            directory.write_certificate(names::CA, &ca)?;
        }
        directory.write_certificate(names::NODE, &committed.node_certificate)?;
        println!("committed; credentials written to {}", self.credentials.display());
        Ok(())
    }

    /// Reads and checks the cluster's part of the disk encryption key, before anything is registered.
    fn unlock_key(&self) -> Result<Vec<u8>, String> {
        let encrypted = !matches!(self.storage_security, Storage::Insecure);
        let Some(file) = &self.cluster_unlock_key_file else {
            return if encrypted {
                Err(
                    "encrypted storage needs an unlock key: give --cluster-unlock-key-file, a file of 32 random bytes \
                             that is stored nowhere else, or --storage-security insecure"
                        .to_owned(),
                )
            } else {
                Ok(Vec::new())
            };
        };
        let key = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        if key.len() == UNLOCK_KEY_BYTES || (!encrypted && key.len() < UNLOCK_KEY_BYTES) {
            Ok(key)
        } else {
            Err(format!(
                "{}: an unlock key must be {UNLOCK_KEY_BYTES} bytes long, not {}; nothing was registered",
                file.display(),
                key.len()
            ))
        }
    }
}

/// A node on its way into the cluster.
struct Newcomer<'a> {
    address: &'a str,
    id: &'a str,
    curator: CuratorClient<Channel>,
    certificates: CertificatesClient<Channel>,
    register: RegisterNodeRequest,
    commit: CommitNodeRequest,
}

impl Newcomer<'_> {
    /// Continues from the node's current state until it has its certificate. Each step asks the cluster for that
    /// state, so an interrupted run can be repeated.
    async fn run(mut self) -> Result<CommitNodeResponse, String> {
        let (mut answered, mut registered, mut waits) = (false, false, false);
        loop {
            let mut wait = POLL_INTERVAL;
            match self.curator.commit_node(with_timeout(self.commit.clone())).await {
                Ok(committed) => return Ok(committed.into_inner()),
                // The instance is at its limits or there is no leader; it gave a retry delay.
                Err(status) if retry_delay(&status).is_some() => wait = delay_after(&status),
                Err(status) if is_temporary(&status) && answered => {}
                Err(status) if is_temporary(&status) => return Err(describe(self.address, &status)),
                // The status for a node that is not approved yet.
                Err(status) if status.code() == Code::PermissionDenied => {
                    answered = true;
                    if !std::mem::replace(&mut waits, true) {
                        println!("registered; {} waits for approval", self.id);
                    }
                }
                Err(status) if status.code() == Code::NotFound && registered => {
                    return Err(format!("{} was deleted while it waited for approval", self.id));
                }
                Err(status) if status.code() == Code::NotFound => {
                    answered = true;
                    match self.curator.register_node(with_timeout(self.register.clone())).await {
                        Ok(_) => {
                            registered = true;
                            continue;
                        }
                        // The next poll tells whether the registration took effect.
                        Err(status) if is_temporary(&status) || retry_delay(&status).is_some() => {
                            wait = delay_after(&status);
                        }
                        Err(status) => return Err(describe(self.address, &status)),
                    }
                }
                Err(refused) if refused.code() == Code::FailedPrecondition => {
                    return self.committed_before(&refused).await;
                }
                Err(status) => return Err(describe(self.address, &status)),
            }
            sleep(wait).await;
        }
    }

    /// Fetches the certificate of an earlier commit whose response was lost.
    async fn committed_before(&mut self, refused: &Status) -> Result<CommitNodeResponse, String> {
        let issued = self
            .certificates
            .issue_own(with_timeout(IssueOwnRequest { anew: false }))
            .await;
        match issued {
            Ok(issued) => {
                let issued = issued.into_inner();
                println!(
                    "{} was committed by an earlier run: fetching its certificate again",
                    self.id
                );
                Ok(CommitNodeResponse {
                    ca_certificate: issued.ca_certificate,
                    node_certificate: issued.certificate,
                })
            }
            // The commit failed for another reason; report that one.
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => {
                Err(describe(self.address, refused))
            }
            Err(status) => Err(describe(self.address, &status)),
        }
    }
}

/// Whether the error is temporary, such as a change of leader. The next call tells whether this one took effect.
fn is_temporary(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || status.source().is_some()
}

/// The delay before the next call: the server's, but at least the poll interval.
fn delay_after(status: &Status) -> Duration {
    retry_delay(status).unwrap_or_default().max(POLL_INTERVAL)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Describes a failed call, with the causes of a failed connection.
fn describe(address: &str, status: &Status) -> String {
    let mut text = format!("{address}: {} ({})", status.message(), status.code());
    let mut source = status.source();
    while let Some(beneath) = source {
        text.push_str(&format!(": {beneath}"));
        source = beneath.source();
    }
    if text.contains(NO_PROOF) {
        text.push_str(
            ". Check that this is the address of an instance; an instance can prove it shortly after its start. If the Go \
             Curator or an earlier release leads the cluster, give --member or --any-node",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use curator_identity::pushback::full::Full;

    use super::*;

    /// When nobody leads, or all register at once.
    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_room_registers_when_it_is_said() {
        let full = Full::new(3, "1900");
        let calls = full.calls.clone();
        let channel = full.serve();
        let newcomer = Newcomer {
            address: "full",
            id: "metropolis-1",
            curator: CuratorClient::new(channel.clone()),
            certificates: CertificatesClient::new(channel),
            register: RegisterNodeRequest::default(),
            commit: CommitNodeRequest::default(),
        };
        let began = tokio::time::Instant::now();
        newcomer.run().await.expect("there is room in the end");
        let took = began.elapsed();
        assert_eq!(calls.load(Ordering::SeqCst), 4);
        assert!(
            (5_700..7_200).contains(&took.as_millis()),
            "three times 1.9 s and a quarter more at most: {took:?}"
        );
    }
}
