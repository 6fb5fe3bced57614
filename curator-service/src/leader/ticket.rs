//! The ticket that a node must show to register.

use curator_proto::management_api::{GetRegisterTicketRequest, GetRegisterTicketResponse};
use curator_proto::private::RegisterTicket;
use prost::Message;
use rand::Rng;
use subtle::ConstantTimeEq;
use tonic::Status;

use super::Leader;
use crate::state::keys::REGISTER_TICKET;
use crate::state::tx::Tx;

impl Leader {
    /// The ticket, which is made when it is first asked for, and stays.
    pub(super) async fn get_register_ticket(
        &self,
        _: GetRegisterTicketRequest,
    ) -> Result<GetRegisterTicketResponse, Status> {
        let mut opaque = vec![0; 32];
        rand::rng().fill_bytes(&mut opaque);
        let fresh = RegisterTicket { opaque }.encode_to_vec();
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
}

/// Whether this is the ticket: the stored message as it is, not what is in it. Without one, nothing is.
pub(super) fn is_ticket(tx: &mut Tx<'_>, shown: &[u8]) -> bool {
    tx.get(REGISTER_TICKET)
        .is_some_and(|stored| bool::from(stored.value.as_ref().ct_eq(shown)))
}
