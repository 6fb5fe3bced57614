//! `curator register`: makes this machine a node of a cluster, and gets its certificate.

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
    ClientCredentials, CredentialsDirectory, NO_PROOF, Trust, come_again, credential_names as names, node_id,
    read_certificate, wall_clock,
};
use ring::digest::{SHA256, digest};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::cli::options::{parse_duration, parse_hex, parse_label};

/// How long one call is given: a change of leader fits in.
const CALL: Duration = Duration::from_secs(10);
/// How long the cluster's part of a disk key is.
const UNLOCK_KEY: usize = 32;
/// Between two looks at whether the node is approved.
const LOOK: Duration = Duration::from_secs(1);

/// Where the cluster is, and what this node is to be.
#[derive(Args)]
pub(crate) struct Register {
    /// The address of any instance, as host:port.
    #[arg(long, env = "CURATOR_ADDRESS", value_name = "ADDRESS")]
    address: String,

    /// The directory for the node's credentials, which `curator serve` uses then: node-key.pem and join-key.pem are made if they
    /// are not there, ca.pem and node.pem are got from the cluster.
    #[arg(long, env = "CURATOR_CREDENTIALS", value_name = "DIR")]
    credentials: PathBuf,

    /// The certificate of the cluster's authority, by which the cluster is recognized: from a node that is there, or from whoever
    /// runs the cluster [default: ca.pem in the directory].
    #[arg(long, env = "CURATOR_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The id of a node that is a member of the consensus: with commas, or repeated, for several. Then only these are taken for the
    /// cluster, and get the ticket and the unlock key [default: any node that proves to be a member].
    #[arg(long, env = "CURATOR_MEMBERS", value_name = "NODE", value_delimiter = ',')]
    member: Vec<String>,

    /// Takes any node of the cluster for an instance, also one that does not prove to be a member of the consensus: for a cluster that
    /// the original leads, or an earlier release. Whoever has any node's certificate, even a deleted one's, may get the ticket then.
    #[arg(long, env = "CURATOR_ANY_NODE", conflicts_with = "member")]
    any_node: bool,

    /// The cluster's register ticket, in hex digits. It is a secret: rather set the variable.
    #[arg(long, env = "CURATOR_REGISTER_TICKET", value_name = "HEX", value_parser = parse_hex, hide_env_values = true)]
    ticket: Hex,

    /// This node has a TPM.
    #[arg(long)]
    tpm: bool,

    /// How this node's storage is secured.
    #[arg(long, value_enum, default_value_t = Storage::AuthenticatedEncrypted)]
    storage_security: Storage,

    /// A file with the cluster's part of this node's disk key, 32 bytes; needed if the storage is encrypted.
    #[arg(long, env = "CURATOR_CLUSTER_UNLOCK_KEY_FILE", value_name = "FILE")]
    cluster_unlock_key_file: Option<PathBuf>,

    /// A label of the node, as key=value; may be repeated.
    #[arg(long, value_name = "LABEL", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// How long to wait until the node is approved.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    wait: Duration,
}

/// Bytes that were given as hex digits.
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
    /// Registers, waits for the approval, and gets the certificate.
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
            return Err(format!("{} is there already: this is a node of a cluster", path.display()).into());
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
        println!(
            "this node is {id}; the SHA-256 of its key is {}",
            sha256(key.public_key())
        );
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
                "not approved within {:?}: approve {id}, and run this again, which goes on from here",
                self.wait
            )
        };
        let committed = committed.map_err(late)??;
        if committed.ca_certificate != ca {
            return Err("the cluster has another authority than it is recognized by: nothing was written".into());
        }
        if !directory.has(names::CA) {
            directory.write_certificate(names::CA, &ca)?;
        }
        directory.write_certificate(names::NODE, &committed.node_certificate)?;
        println!("committed: its credentials are in {}", self.credentials.display());
        Ok(())
    }

    /// The cluster's part of the disk key, of which it is known before anything is registered that the cluster takes it.
    fn unlock_key(&self) -> Result<Vec<u8>, String> {
        let encrypted = !matches!(self.storage_security, Storage::Insecure);
        let Some(file) = &self.cluster_unlock_key_file else {
            return match encrypted {
                true => Err(
                    "the storage is encrypted, and no unlock key is given: give --cluster-unlock-key-file, a file of \
                             32 random bytes that is kept nowhere else, or --storage-security insecure"
                        .to_owned(),
                ),
                false => Ok(Vec::new()),
            };
        };
        let key = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        match key.len() == UNLOCK_KEY || (!encrypted && key.len() < UNLOCK_KEY) {
            true => Ok(key),
            false => Err(format!(
                "{}: an unlock key is {UNLOCK_KEY} bytes long, and this one is {}; nothing was registered",
                file.display(),
                key.len()
            )),
        }
    }
}

/// A node that is to be one of the cluster, wherever it is on its way.
struct Newcomer<'a> {
    address: &'a str,
    id: &'a str,
    curator: CuratorClient<Channel>,
    certificates: CertificatesClient<Channel>,
    register: RegisterNodeRequest,
    commit: CommitNodeRequest,
}

impl Newcomer<'_> {
    /// Goes on from where the node is, until it has its certificate. The cluster is asked for that at each step, so this may be
    /// repeated whenever it was interrupted.
    async fn run(mut self) -> Result<CommitNodeResponse, String> {
        let (mut answered, mut registered, mut waits) = (false, false, false);
        loop {
            let mut wait = LOOK;
            match self.curator.commit_node(bounded(self.commit.clone())).await {
                Ok(committed) => return Ok(committed.into_inner()),
                // It is full there, or nobody leads, and it is said when to come again.
                Err(status) if come_again(&status).is_some() => wait = after(&status),
                Err(status) if is_passing(&status) && answered => {}
                Err(status) if is_passing(&status) => return Err(told(self.address, &status)),
                // That is what a node is told that is not approved yet.
                Err(status) if status.code() == Code::PermissionDenied => {
                    answered = true;
                    if !std::mem::replace(&mut waits, true) {
                        println!("registered: {} waits for its approval", self.id);
                    }
                }
                Err(status) if status.code() == Code::NotFound && registered => {
                    return Err(format!("{} was deleted while it waited for its approval", self.id));
                }
                Err(status) if status.code() == Code::NotFound => {
                    answered = true;
                    match self.curator.register_node(bounded(self.register.clone())).await {
                        Ok(_) => {
                            registered = true;
                            continue;
                        }
                        // Should it have run, the next look says so.
                        Err(status) if is_passing(&status) || come_again(&status).is_some() => wait = after(&status),
                        Err(status) => return Err(told(self.address, &status)),
                    }
                }
                Err(refused) if refused.code() == Code::FailedPrecondition => {
                    return self.committed_before(&refused).await;
                }
                Err(status) => return Err(told(self.address, &status)),
            }
            sleep(wait).await;
        }
    }

    /// What a commit was answered that has run before, and whose answer got lost.
    async fn committed_before(&mut self, refused: &Status) -> Result<CommitNodeResponse, String> {
        let issued = self
            .certificates
            .issue_own(bounded(IssueOwnRequest { anew: false }))
            .await;
        match issued {
            Ok(issued) => {
                let issued = issued.into_inner();
                println!("{} has committed before: it gets its certificate again", self.id);
                Ok(CommitNodeResponse {
                    ca_certificate: issued.ca_certificate,
                    node_certificate: issued.certificate,
                })
            }
            // It was for another reason, which is said.
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => {
                Err(told(self.address, refused))
            }
            Err(status) => Err(told(self.address, &status)),
        }
    }
}

/// A change of leader, or the instance is gone for a moment. Should the call have run, the next one says so.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || status.source().is_some()
}

/// How long to wait after a call that may be made again: as long as is said, if that is longer than between two looks.
fn after(status: &Status) -> Duration {
    come_again(status).unwrap_or_default().max(LOOK)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}

/// What the cluster says, with what is beneath it if no call got through.
fn told(address: &str, status: &Status) -> String {
    let mut text = format!("{address}: {} ({})", status.message(), status.code());
    let mut source = status.source();
    while let Some(beneath) = source {
        text.push_str(&format!(": {beneath}"));
        source = beneath.source();
    }
    if text.contains(NO_PROOF) {
        text.push_str(
            ". Call an instance, not another node; one proves it a moment after it has started, or got the role. If the original leads the \
             cluster, or an earlier release, name the members with --member, or take any node with --any-node",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use curator_identity::pushback::full::Full;

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
