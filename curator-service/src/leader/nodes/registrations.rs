//! When and from where nodes registered, to help operators decide on approval.

use std::net::IpAddr;
use std::time::SystemTime;

use curator_proto::admin_api::registrations_server::Registrations;
use curator_proto::admin_api::{GetRegistrationsRequest, GetRegistrationsResponse, Registration};
use curator_proto::common::NodeState;
use curator_proto::storage;
use prost::Message;
use tonic::{Request, Response, Status};
use tracing::warn;

use crate::leader::nodes::lookup;
use crate::leader::{Leader, LeaderHandle};
use crate::state::keys::REGISTRATIONS;
use crate::state::record::NodeRecord;
use crate::state::tx::Tx;
use crate::state::view::View;

/// Stores how a node registered, together with its record.
pub(in crate::leader) fn note(tx: &mut Tx<'_>, id: &str, now: SystemTime, from: Option<IpAddr>) -> Result<(), Status> {
    let registration = storage::Registration {
        at: Some(now.into()),
        from: from.map(|address| address.to_string()).unwrap_or_default(),
    };
    tx.put(
        REGISTRATIONS.key(id).map_err(lookup::invalid_id)?,
        registration.encode_to_vec(),
    );
    Ok(())
}

impl Leader {
    pub(in crate::leader) async fn get_registrations(
        &self,
        request: GetRegistrationsRequest,
    ) -> Result<GetRegistrationsResponse, Status> {
        let meant = |node: &NodeRecord| match request.node_id.as_str() {
            "" => node.state() == NodeState::New,
            id => node.id() == id,
        };
        let read = self.state.read(|view| {
            let nodes = view.nodes().filter_map(|(_, node)| node.as_ref().ok());
            nodes
                .filter(|node| meant(node))
                .filter_map(|node| kept(view, node))
                .collect()
        });
        Ok(GetRegistrationsResponse {
            registrations: read.await?,
        })
    }
}

/// How this node registered, if that was stored.
fn kept(view: &View, node: &NodeRecord) -> Option<Registration> {
    let stored = view.get(&REGISTRATIONS.key(node.id()).ok()?)?;
    match storage::Registration::decode(stored.value.as_ref()) {
        Ok(registration) => Some(Registration {
            node_id: node.id().to_owned(),
            public_key: node.message().public_key.clone(),
            registered_at: registration.at,
            registered_from: registration.from,
        }),
        Err(error) => {
            warn!(node_id = node.id(), %error, "stored registration details of a node are invalid");
            None
        }
    }
}

#[tonic::async_trait]
impl Registrations for LeaderHandle {
    async fn get_registrations(
        &self,
        request: Request<GetRegistrationsRequest>,
    ) -> Result<Response<GetRegistrationsResponse>, Status> {
        let done = self.leader().get_registrations(request.into_inner()).await;
        done.map(Response::new)
    }
}
