//! The election on real etcd members and real `curator` processes, with faults by signals and proxies.
//!
//! Run by `cargo xtask integration`, which says where the binaries are. Every wait is for an event and has an upper bound.
//! What was measured is printed as a multiple of the TTL, in lines that begin with `measured:`.

mod command_line;
mod etcd_faults;
mod interop;
mod lease_faults;
mod stage;
mod takeover;
mod traces;
