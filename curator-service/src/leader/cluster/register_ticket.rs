//! The register ticket, which a node must present to register.

use curator_proto::admin_api::tickets_server::Tickets;
use curator_proto::admin_api::{RotateRegisterTicketRequest, RotateRegisterTicketResponse};
use curator_proto::management_api::{GetRegisterTicketRequest, GetRegisterTicketResponse};
use curator_proto::private::RegisterTicket;
use prost::Message;
use rand::Rng;
use subtle::ConstantTimeEq;
use tonic::{Request, Response, Status};

use crate::audit::Entry;
use crate::leader::{Leader, LeaderHandle};
use crate::state::keys::REGISTER_TICKET;
use crate::state::tx::Tx;

impl Leader {
    /// Returns the ticket; creates it on first use.
    pub(in crate::leader) async fn get_register_ticket(
        &self,
        _: GetRegisterTicketRequest,
    ) -> Result<GetRegisterTicketResponse, Status> {
        let fresh = fresh();
        let ticket = self
            .state
            .transact(|tx| match tx.get(REGISTER_TICKET) {
                Some(stored) => Ok(stored.value.to_vec()),
                None => {
                    tx.put(REGISTER_TICKET, fresh.clone());
                    Ok(fresh.clone())
                }
            })
            .await?;
        Ok(GetRegisterTicketResponse { ticket })
    }

    /// Refuses any other ticket.
    pub(in crate::leader) async fn check_ticket(&self, shown: &[u8]) -> Result<(), Status> {
        self.state
            .transact(|tx| {
                if is_ticket(tx, shown) {
                    Ok(())
                } else {
                    Err(not_the_ticket())
                }
            })
            .await
    }

    /// Replaces the ticket, so that the old one becomes invalid.
    pub(in crate::leader) async fn rotate_register_ticket(
        &self,
        _: RotateRegisterTicketRequest,
    ) -> Result<RotateRegisterTicketResponse, Status> {
        let ticket = fresh();
        self.state
            .transact(|tx| {
                tx.put(REGISTER_TICKET, ticket.clone());
                Ok(())
            })
            .await?;
        Ok(RotateRegisterTicketResponse { ticket })
    }
}

#[tonic::async_trait]
impl Tickets for LeaderHandle {
    async fn rotate_register_ticket(
        &self,
        request: Request<RotateRegisterTicketRequest>,
    ) -> Result<Response<RotateRegisterTicketResponse>, Status> {
        let entry = Entry::of(&request);
        let done = self.leader().rotate_register_ticket(request.into_inner()).await;
        entry.close(&done);
        done.map(Response::new)
    }
}

fn fresh() -> Vec<u8> {
    let mut opaque = vec![0; 32];
    rand::rng().fill_bytes(&mut opaque);
    RegisterTicket { opaque }.encode_to_vec()
}

pub(in crate::leader) fn not_the_ticket() -> Status {
    Status::permission_denied("register_ticket: does not match the cluster's register ticket")
}

/// Whether this is the ticket: compares the stored message bytes, not its fields. Without a stored ticket nothing
/// matches.
pub(in crate::leader) fn is_ticket(tx: &mut Tx<'_>, shown: &[u8]) -> bool {
    tx.get(REGISTER_TICKET)
        .is_some_and(|stored| bool::from(stored.value.as_ref().ct_eq(shown)))
}
