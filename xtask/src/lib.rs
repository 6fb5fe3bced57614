//! Builds, runs and checks the workspace: the commands behind `cargo xtask`. What starts real etcd members and real
//! `curator` processes is `curator-harness`.
//!
//! It is a blocking program with few dependencies, so that it compiles in seconds and without protoc.
#![allow(
    clippy::disallowed_methods,
    reason = "a blocking tool beside the product: it has no runtime to block, and measures wall time only"
)]

pub mod args;
pub mod cargo;
pub mod cli;
pub mod command;
pub mod commands;
pub mod packaged;
pub mod tidy;
pub mod tools;
pub mod workspace;
