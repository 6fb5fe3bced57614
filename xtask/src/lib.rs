//! Builds, runs and checks the workspace: the commands behind `cargo xtask`, and the [`harness`] that the integration
//! tests drive real etcd members and real `curator` processes with.
//!
//! It is a blocking program with few dependencies, so that it compiles in seconds and without protoc.
//!
//! ```no_run
//! use std::time::Duration;
//! use xtask::harness::{EtcdBinaries, EtcdCluster, EtcdOptions, Scratch};
//!
//! # fn main() -> xtask::Result<()> {
//! let scratch = Scratch::new("example")?;
//! let etcd = EtcdCluster::start(&EtcdBinaries::from_env()?, &scratch, EtcdOptions::default())?;
//! etcd.isolate(0)?;
//! etcd.wait_member_unhealthy(0, Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "a blocking tool beside the product: it has no runtime to block, and measures wall time only"
)]

pub mod args;
pub mod cli;
pub mod commands;
pub mod error;
pub mod guides;
pub mod harness;
pub mod history;
pub mod picture;
pub mod signals;
pub mod step;
pub mod tidy;
pub mod tools;
pub mod workspace;

pub use error::{Context, Error, Result};
