//! A cluster with TLS, whose nodes and owner get their certificates as those of any cluster do: from its own authority,
//! by the API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curator_election::etcd::{EtcdConfig, EtcdStore};
use curator_election::namespace::Namespaced;
use curator_proto::common::{NodeLabels, NodeStorageSecurity};
use curator_proto::curator_api::curator_client::CuratorClient;
use curator_proto::curator_api::{CommitNodeRequest, RegisterNodeRequest};
use curator_proto::management_api::aaa_client::AaaClient;
use curator_proto::management_api::management_client::ManagementClient;
use curator_proto::management_api::{
    ApproveNodeRequest, EscrowRequest, GetRegisterTicketRequest, UpdateNodeRolesRequest, escrow_request,
    update_node_roles_request,
};
use curator_service::{
    Bootstrap, ClientCredentials, CredentialsDirectory, PrivateKey, Trust, bootstrap, credential_names as names,
    node_id, read_certificate, read_private_key, retry_delay, wall_clock,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::Failure;
use crate::nodes::labels;

/// The nodes that have an instance.
pub(crate) const INSTANCES: usize = 3;
/// How many nodes join at a time: a cluster lets no more than 1,024 wait for their approval.
const AT_A_TIME: usize = 512;
/// What one step of joining may take, with all attempts.
const PATIENCE: Duration = Duration::from_secs(120);
/// What one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Before a call is made again that found no leader.
const AGAIN: Duration = Duration::from_millis(100);
/// The cluster's part of each node's disk key.
const UNLOCK_KEY: [u8; 32] = [7; 32];

/// The directory of an instance's credentials.
fn of_instance(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("node-{number}"))
}

/// Makes the keys of those with an instance and of the owner, and returns the ids of the nodes.
pub(crate) fn keys(directory: &Path) -> Result<Vec<String>, Failure> {
    CredentialsDirectory::create(&directory.join("owner"))?.key(names::OWNER_KEY)?;
    let node = |number| {
        let credentials = CredentialsDirectory::create(&of_instance(directory, number))?;
        credentials.key(names::JOIN_KEY)?;
        node_id(credentials.key(names::NODE_KEY)?.public_key()).ok_or_else(|| "a key without an id".into())
    };
    (1..=INSTANCES).map(node).collect()
}

/// Makes the cluster in an etcd. The first node gets its certificate.
pub(crate) async fn found(directory: &Path, etcd: &str) -> Result<(), Failure> {
    let etcd = EtcdStore::new(EtcdConfig::new(vec![etcd.to_owned()]))?;
    let store = Namespaced::with_siblings(etcd, "namespaced:curator".parse()?);
    let first = CredentialsDirectory::create(&of_instance(directory, 1))?;
    let owner = CredentialsDirectory::create(&directory.join("owner"))?;
    let cluster = Bootstrap {
        node_public_key: first.key(names::NODE_KEY)?.public_key().to_vec(),
        join_public_key: first.key(names::JOIN_KEY)?.public_key().to_vec(),
        cluster_unlock_key: UNLOCK_KEY.to_vec(),
        owner_public_key: owner.key(names::OWNER_KEY)?.public_key().to_vec(),
        ..Bootstrap::default()
    };
    let made = bootstrap(&store, &cluster, wall_clock()).await?;
    for number in 1..=INSTANCES {
        let node = CredentialsDirectory::create(&of_instance(directory, number))?;
        node.write_certificate(names::CA, &made.ca_certificate)?;
    }
    owner.write_certificate(names::CA, &made.ca_certificate)?;
    first.write_certificate(names::NODE, &made.node_certificate)?;
    Ok(())
}

/// The owner of a cluster, who lets nodes in.
#[derive(Clone)]
pub(crate) struct Owner {
    ca: Vec<u8>,
    credentials: ClientCredentials,
    ticket: Vec<u8>,
}

impl Owner {
    /// Proves to be the owner, through one of these instances.
    pub(crate) async fn new(directory: &Path, at: SocketAddr) -> Result<Self, Failure> {
        let owner = directory.join("owner");
        let (ca, key) = (
            read_certificate(&owner.join(names::CA))?,
            read_private_key(&owner.join(names::OWNER_KEY))?,
        );
        let trust = || Trust::Cluster { ca: ca.clone() };
        let with_key = ClientCredentials::with_key(trust(), &key, wall_clock())?.channel(&at.to_string())?;
        let escrow = EscrowRequest {
            parameters: Some(escrow_request::Parameters {
                requested_identity_name: "owner".into(),
                public_key: key.public_key().to_vec(),
            }),
            proofs: None,
        };
        let certificate = insist(|| {
            let mut aaa = AaaClient::new(with_key.clone());
            let request = bounded(futures::stream::iter([escrow.clone()]));
            async move {
                let mut answers = aaa.escrow(request).await?.into_inner();
                let answer = answers.message().await?;
                answer.ok_or_else(|| Status::unavailable("no certificate was given"))
            }
        });
        let certificate = certificate.await?.emitted_certificate;
        let credentials = ClientCredentials::with_certificate(trust(), certificate, &key)?;
        let channel = credentials.channel(&at.to_string())?;
        let ticket = insist(async || {
            let mut management = ManagementClient::new(channel.clone());
            management
                .get_register_ticket(bounded(GetRegisterTicketRequest {}))
                .await
        });
        let ticket = ticket.await?.into_inner().ticket;
        Ok(Self {
            ca,
            credentials,
            ticket,
        })
    }

    pub(crate) fn credentials(&self) -> ClientCredentials {
        self.credentials.clone()
    }

    /// Lets in the other nodes that are to have an instance, as members of the consensus.
    pub(crate) async fn admit(&self, directory: &Path, at: SocketAddr) -> Result<(), Failure> {
        for number in 2..=INSTANCES {
            let node = CredentialsDirectory::create(&of_instance(directory, number))?;
            let (key, join_key) = (node.key(names::NODE_KEY)?, node.key(names::JOIN_KEY)?);
            let management = ManagementClient::new(self.credentials.channel(&at.to_string())?);
            let certificate = self.join(&key, &join_key, at, &management, 0).await?;
            node.write_certificate(names::NODE, &certificate)?;
            let id = node_id(key.public_key()).unwrap_or_default();
            insist(|| {
                let mut management = management.clone();
                let request = UpdateNodeRolesRequest {
                    node: Some(update_node_roles_request::Node::Id(id.clone())),
                    consensus_member: Some(true),
                    ..UpdateNodeRolesRequest::default()
                };
                async move { management.update_node_roles(bounded(request)).await }
            })
            .await?;
        }
        Ok(())
    }

    /// Registers so many nodes through these instances, all at once, each with a record of about `size` bytes. Returns
    /// what they show from then on.
    pub(crate) async fn join_all(
        &self,
        nodes: usize,
        instances: &[SocketAddr],
        size: usize,
    ) -> Result<Vec<ClientCredentials>, Failure> {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        let managements: Vec<_> = instances
            .iter()
            .map(|at| Ok(ManagementClient::new(self.credentials.channel(&at.to_string())?)))
            .collect::<Result<_, Failure>>()?;
        let mut joining = JoinSet::new();
        for number in 0..nodes {
            let (owner, places) = (self.clone(), places.clone());
            let way = number % instances.len();
            let (at, management) = (instances[way], managements[way].clone());
            joining.spawn(async move {
                let _place = places.acquire_owned().await?;
                let (key, join_key) = (PrivateKey::generate()?, PrivateKey::generate()?);
                let certificate = owner.join(&key, &join_key, at, &management, size).await?;
                let trust = Trust::Cluster { ca: owner.ca.clone() };
                Ok::<_, Failure>(ClientCredentials::with_certificate(trust, certificate, &key)?)
            });
        }
        let mut joined = Vec::with_capacity(nodes);
        while let Some(done) = joining.join_next().await {
            joined.push(done??);
        }
        Ok(joined)
    }

    /// Registers a node, lets it in, and gets its certificate.
    async fn join(
        &self,
        key: &PrivateKey,
        join_key: &PrivateKey,
        at: SocketAddr,
        management: &ManagementClient<Channel>,
        size: usize,
    ) -> Result<Vec<u8>, Failure> {
        let trust = Trust::Cluster { ca: self.ca.clone() };
        let channel = ClientCredentials::with_key(trust, key, wall_clock())?.channel(&at.to_string())?;
        let curator = CuratorClient::new(channel);
        let register = RegisterNodeRequest {
            register_ticket: self.ticket.clone(),
            join_key: join_key.public_key().to_vec(),
            have_local_tpm: true,
            labels: Some(NodeLabels { pairs: labels(size) }),
        };
        insist(|| {
            let (mut curator, register) = (curator.clone(), bounded(register.clone()));
            async move { curator.register_node(register).await }
        })
        .await?;
        let pubkey = key.public_key().to_vec();
        insist(|| {
            let mut management = management.clone();
            let approve = bounded(ApproveNodeRequest { pubkey: pubkey.clone() });
            async move { management.approve_node(approve).await }
        })
        .await?;
        let commit = CommitNodeRequest {
            cluster_unlock_key: UNLOCK_KEY.to_vec(),
            storage_security: NodeStorageSecurity::AuthenticatedEncrypted.into(),
        };
        let committed = insist(|| {
            let (mut curator, commit) = (curator.clone(), bounded(commit.clone()));
            async move { curator.commit_node(commit).await }
        })
        .await?;
        Ok(committed.into_inner().node_certificate)
    }
}

/// Makes a call until it is answered: again when it is told to, or finds nobody who leads.
async fn insist<T, F>(mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let passing = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded);
        match retry_delay(&status).or_else(|| passing.then_some(AGAIN)) {
            Some(wait) if Instant::now() + wait < until => sleep(wait).await,
            _ => return Err(status),
        }
    }
}

fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}
