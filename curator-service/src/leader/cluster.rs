//! The cluster itself: its configuration, its authorities and what they issue, its register ticket, and the keys of its network.

pub(crate) mod certificates;
pub(crate) mod configuration;
pub(crate) mod networking;
pub(crate) mod own_certificate;
pub(crate) mod pki;
pub(crate) mod register_ticket;
