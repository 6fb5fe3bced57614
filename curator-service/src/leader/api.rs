//! The leader's gRPC services: each method hands over to what does it.

pub(crate) mod aaa;
pub(crate) mod curator;
pub(crate) mod management;
