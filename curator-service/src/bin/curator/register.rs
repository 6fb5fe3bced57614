//! `curator register`: makes this machine a node of a cluster, and gets its certificate.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use curator_proto::common::{NodeLabels, NodeStorageSecurity, node_labels};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{CommitNodeRequest, CommitNodeResponse, RegisterNodeRequest};
use curator_service::{
    ClientCredentials, CredentialsDirectory, NO_PROOF, Trust, credential_names as names, node_id, read_certificate,
    wall_clock,
};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::options::{parse_duration, parse_hex, parse_label};

/// How long one call is given: a change of leader fits in.
const CALL: Duration = Duration::from_secs(10);
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
    #[arg(
        long,
        env = "CURATOR_CLUSTER_UNLOCK_KEY_FILE",
        value_name = "FILE",
        required_if_eq_any = [("storage_security", "encrypted"), ("storage_security", "authenticated-encrypted")]
    )]
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
        let unlock_key = match &self.cluster_unlock_key_file {
            Some(file) => std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
            None => Vec::new(),
        };
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
        let mut curator = CuratorClient::new(client.channel(&self.address)?);

        let pairs = self.label.iter().map(|(key, value)| node_labels::Pair {
            key: key.clone(),
            value: value.clone(),
        });
        let registering = RegisterNodeRequest {
            register_ticket: self.ticket.to_vec(),
            join_key: join_key.public_key().to_vec(),
            have_local_tpm: self.tpm,
            labels: Some(NodeLabels { pairs: pairs.collect() }),
        };
        curator
            .register_node(bounded(registering))
            .await
            .map_err(|status| told(&self.address, &status))?;
        println!("registered: this node is {id}, and waits for its approval");
        let committed = timeout(self.wait, self.commit(&mut curator, unlock_key)).await;
        let late = |_| format!("not approved within {:?}: approve {id}, and run this again", self.wait);
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

    /// Asks for the certificate until the node is approved.
    async fn commit(
        &self,
        curator: &mut CuratorClient<Channel>,
        cluster_unlock_key: Vec<u8>,
    ) -> Result<CommitNodeResponse, String> {
        let storage_security = match self.storage_security {
            Storage::Insecure => NodeStorageSecurity::Insecure,
            Storage::Encrypted => NodeStorageSecurity::Encrypted,
            Storage::AuthenticatedEncrypted => NodeStorageSecurity::AuthenticatedEncrypted,
        };
        let request = CommitNodeRequest {
            cluster_unlock_key,
            storage_security: storage_security.into(),
        };
        loop {
            match curator.commit_node(bounded(request.clone())).await {
                Ok(committed) => return Ok(committed.into_inner()),
                // That is what a node is told that is not approved yet.
                Err(status) if status.code() == Code::PermissionDenied => {}
                // A change of leader, or the instance is gone for a moment. Should the call have run, the next one says so.
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {}
                Err(status) if status.source().is_some() => {}
                Err(status) => return Err(told(&self.address, &status)),
            }
            sleep(LOOK).await;
        }
    }
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
