//! The leader's gRPC services: each method calls the code that implements it.

pub(crate) mod aaa;
pub(crate) mod curator;
pub(crate) mod management;
