//! Data that a client sends: counted while it is kept in memory. A socket is not read while its party has no room.

mod body;
mod call_cost;
pub(crate) mod frames;
mod ledger;
mod messages;

pub(crate) use body::{InboundBody, Keep};
pub(crate) use call_cost::CallCost;
pub(crate) use ledger::{FRAME, InboundCounter, Ledger};
