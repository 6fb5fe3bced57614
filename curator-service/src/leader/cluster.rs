//! The cluster itself: configuration, certificate authorities, register ticket and cluster network.

pub(crate) mod certificates;
pub(crate) mod configuration;
pub(crate) mod networking;
pub(crate) mod own_certificate;
pub(crate) mod pki;
pub(crate) mod register_ticket;
