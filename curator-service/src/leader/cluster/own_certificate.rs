//! Issues the certificate of the caller that proves to own a key: the existing one, or a renewed one.

use curator_identity::Subject;
use curator_proto::admin_api::certificates_server::Certificates;
use curator_proto::admin_api::{IssueOwnRequest, IssueOwnResponse};
use tonic::{Request, Response, Status};

use crate::audit::Entry;
use crate::leader::api::aaa::{OWNER, owners_key};
use crate::leader::nodes::lookup;
use crate::leader::nodes::lookup::to_stranger;
use crate::leader::nodes::pace::Kind;
use crate::leader::{Leader, LeaderHandle, calling_key, is_up};
use crate::state::tx::Tx;

/// The size that a new certificate counts as, for the write rate limit.
const LENGTH: usize = 1_024;

/// The owner of a key.
struct Holder {
    /// The name under which the certificate is stored.
    name: String,
    subject: Subject,
}

impl Leader {
    /// Issues the certificate for the caller's key. Nodes that are deleted, not approved or not committed get none.
    pub(in crate::leader) async fn issue_own(
        &self,
        key: Option<[u8; 32]>,
        request: IssueOwnRequest,
    ) -> Result<IssueOwnResponse, Status> {
        let key = key.ok_or_else(|| {
            Status::unauthenticated("client certificate required: connect with a self-signed certificate")
        })?;
        let id = crate::validate::id_of_key("public key", &key)?;
        // Unauthenticated callers learn nothing about the authority, and their calls count against no rate limit.
        self.state.transact(|tx| holder(tx, &id, &key).map(drop)).await?;
        if request.anew {
            self.pace.turn(&id, Kind::Certificate, LENGTH).await?;
        }
        let authority = self.cluster_pki.authority(&self.state, self.now()).await?;
        let now = self.now();
        let issued = self.state.transact(|tx| {
            let Holder { name, subject } = holder(tx, &id, &key)?;
            if request.anew {
                self.cluster_pki.renew(tx, &authority, &name, &subject, &key, now)
            } else {
                self.cluster_pki.ensure(tx, &authority, &name, &subject, &key, now)
            }
        });
        let certificate = issued.await?;
        Ok(IssueOwnResponse {
            certificate,
            ca_certificate: authority.certificate().to_vec(),
        })
    }
}

/// Finds the owner of the key; an error if no owner may have a certificate.
fn holder(tx: &mut Tx<'_>, id: &str, key: &[u8; 32]) -> Result<Holder, Status> {
    if owners_key(tx).is_ok_and(|owner| owner == *key) {
        return Ok(Holder {
            name: OWNER.to_owned(),
            subject: Subject::user(OWNER),
        });
    }
    match lookup::optional_node(tx, id)? {
        Some(node) if is_up(&node, key) => Ok(Holder {
            name: format!("node-{id}"),
            subject: Subject::node(id),
        }),
        _ => Err(Status::permission_denied(
            "the client certificate's key belongs neither to a node in NODE_STATE_UP nor to the owner",
        )),
    }
}

#[tonic::async_trait]
impl Certificates for LeaderHandle {
    async fn issue_own(&self, request: Request<IssueOwnRequest>) -> Result<Response<IssueOwnResponse>, Status> {
        let key = calling_key(&request)?;
        // Calls with an unknown key are not audited, however many there are.
        let entry = Entry::of(&request).quiet();
        let done = self.leader().issue_own(key, request.into_inner()).await;
        if done.is_ok() {
            entry.close(&done);
        }
        done.map(Response::new).map_err(to_stranger)
    }
}
