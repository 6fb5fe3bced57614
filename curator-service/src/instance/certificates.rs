//! The instance's certificates: the second one for stock clients, the proof of membership, the renewal, and the check
//! that the store belongs to the cluster of the credentials.

pub(crate) mod membership;
pub(crate) mod renewal;
pub(crate) mod second;
pub(crate) mod state;
