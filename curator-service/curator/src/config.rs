//! The configuration: the file, what flags and environment add to it, and reading it again.

pub(crate) mod file;
pub(crate) mod merge;
pub(crate) mod reload;
