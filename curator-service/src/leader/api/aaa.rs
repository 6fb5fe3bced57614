//! The `AAA` service: issues the certificate of the cluster owner.

use std::pin::Pin;

use curator_identity::Subject;
use curator_proto::management_api::aaa_server::Aaa;
use curator_proto::management_api::escrow_response::ProofRequest;
use curator_proto::management_api::escrow_response::proof_request::Kind;
use curator_proto::management_api::{EscrowRequest, EscrowResponse, escrow_request};
use curator_proto::private::InitialOwner;
use futures::Stream;
use prost::Message;
use subtle::ConstantTimeEq;
use tonic::{Request, Response, Status, Streaming};

use crate::leader::{Leader, LeaderHandle, calling_key};
use crate::state::keys::INITIAL_OWNER;
use crate::state::tx::Tx;
use crate::validate::key32;

/// The only user identity.
pub(in crate::leader) const OWNER: &str = "owner";

pub(in crate::leader) type RevocableStream = Pin<Box<dyn Stream<Item = Result<EscrowResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Aaa for LeaderHandle {
    type EscrowStream = RevocableStream;

    /// Answers the first request and ends the stream.
    async fn escrow(&self, request: Request<Streaming<EscrowRequest>>) -> Result<Response<RevocableStream>, Status> {
        let key = calling_key(&request)?;
        let leader = self.leader();
        let mut requests = request.into_inner();
        let first = requests.message().await?;
        leader.escrow(key, first).await.map(Response::new)
    }
}

impl Leader {
    /// Answers the request of a caller that proved to own this key.
    pub(in crate::leader) async fn escrow(
        &self,
        key: Option<[u8; 32]>,
        first: Option<EscrowRequest>,
    ) -> Result<RevocableStream, Status> {
        let parameters = first
            .and_then(|first| first.parameters)
            .ok_or_else(|| Status::invalid_argument("parameters: required"))?;
        let asked = check(&parameters)?;
        let Some(key) = key else {
            let needed = EscrowResponse {
                needed: vec![certificate()],
                ..EscrowResponse::default()
            };
            let refused = Status::unauthenticated(
                "client certificate required: connect with a self-signed certificate for the owner's key",
            );
            let answers = futures::stream::iter([Ok(needed), Err(refused)]);
            return Ok(Box::pin(answers));
        };
        if !bool::from(key.ct_eq(&asked)) {
            return Err(Status::unimplemented(
                "parameters.public_key: must match the key of the client certificate",
            ));
        }
        let emitted = self.owner_certificate(&key).await?;
        let fulfilled = EscrowResponse {
            fulfilled: vec![certificate()],
            emitted_certificate: emitted,
            ..EscrowResponse::default()
        };
        Ok(Box::pin(futures::stream::iter([Ok(fulfilled)])))
    }
}

fn check(parameters: &escrow_request::Parameters) -> Result<[u8; 32], Status> {
    if parameters.requested_identity_name != OWNER {
        return Err(Status::unimplemented(
            "parameters.requested_identity_name: only \"owner\" is supported",
        ));
    }
    Ok(key32("parameters.public_key", &parameters.public_key)?)
}

fn certificate() -> ProofRequest {
    ProofRequest {
        kind: Kind::RefreshCertificate.into(),
    }
}

impl Leader {
    /// Issues the owner's certificate for the key that the cluster was bootstrapped with. There is only one owner
    /// certificate.
    pub(in crate::leader) async fn owner_certificate(&self, key: &[u8; 32]) -> Result<Vec<u8>, Status> {
        let authority = self.cluster_pki.authority(&self.state, self.now()).await;
        let now = self.now();
        self.state
            .transact(|tx| {
                if !bool::from(owners_key(tx)?.ct_eq(key)) {
                    return Err(Status::permission_denied("public key is not the cluster owner's key"));
                }
                let authority = authority.as_ref().map_err(Status::clone)?;
                self.cluster_pki
                    .ensure(tx, authority, OWNER, &Subject::user(OWNER), key, now)
            })
            .await
    }
}

/// The owner key that the cluster was bootstrapped with.
pub(in crate::leader) fn owners_key(tx: &mut Tx<'_>) -> Result<[u8; 32], Status> {
    let owner = tx
        .get(INITIAL_OWNER)
        .ok_or_else(|| Status::failed_precondition("cluster is not bootstrapped: no owner key is stored"))?;
    InitialOwner::decode(owner.value.as_ref())
        .ok()
        .and_then(|owner| <[u8; 32]>::try_from(owner.public_key).ok())
        .ok_or_else(|| Status::failed_precondition(format!("the stored value at {INITIAL_OWNER} is invalid")))
}
