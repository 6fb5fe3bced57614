//! The harness tried on itself and on real etcd, before the product's tests rely on it.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests of a blocking tool: they measure wall time, and an error is a failure"
)]

mod child;
mod cli;
mod curator;
mod etcd;
mod hosts;
mod ports;
mod process;
mod proxy;
