//! Tests of the leader on the in-memory etcd model: what each call does, whatever happens concurrently.

mod bad_input;
mod decommissioning;
mod escrow;
mod fencing;
mod lifecycle;
mod limits;
mod metrics;
mod networking;
mod nodes;
mod order;
mod registrations;
mod returning;
mod stage;
mod stored;
mod surface;
mod upkeep;
mod watching;
