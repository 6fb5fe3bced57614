//! What an instance keeps true of its own certificates: the second one for stock clients, the proof of membership, and that the store is
//! of the cluster that its credentials are from.

pub(crate) mod membership;
pub(crate) mod renewal;
pub(crate) mod second;
pub(crate) mod state;
