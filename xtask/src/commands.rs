//! The commands of `cargo xtask`, one in each file.

pub mod api;
pub mod bench;
pub mod chaos;
pub mod ci;
pub mod examples;
pub mod fuzz;
pub mod integration;
pub mod outside;
pub mod package;
pub mod setup;
pub mod sim;
pub mod smoke;
pub mod test;
pub mod up;
pub mod upgrade;
