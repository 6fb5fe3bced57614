//! The commands, a file each, and the arguments that several have.

pub(crate) mod bootstrap;
pub(crate) mod config;
pub(crate) mod options;
pub(crate) mod plaintext;
pub(crate) mod register;
pub(crate) mod release;
pub(crate) mod serve;
pub(crate) mod transfer;
