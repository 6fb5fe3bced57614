//! The configuration: defaults, the file, their merge with flags and environment, and the reload on SIGHUP.

pub(crate) mod defaults;
pub(crate) mod file;
pub(crate) mod merge;
pub(crate) mod reload;
