//! Test doubles for consumers, with the feature `simulation`.

pub mod sim_network;
