//! The election on real etcd members and real `curator` processes, with faults by signals and proxies.
//!
//! Run by `cargo xtask integration`, which says where the binaries are. Every wait is for an event and has an upper
//! bound. What was measured is printed as a multiple of the TTL, in lines that begin with `measured:`.

#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]
#![allow(
    clippy::disallowed_methods,
    reason = "times are measured for the reader; nothing is decided by them but a bound"
)]

mod abuse;
mod calls;
mod cluster;
mod command_line;
mod compaction;
mod conformance;
mod ctl;
mod duplicate;
mod embedded;
mod etcd_faults;
mod etcd_tls;
mod failover;
mod forwarding;
mod grpc_proxy;
mod guide;
mod host_faults;
mod interop;
mod large_state;
mod lease_faults;
mod limits;
mod load;
mod membership;
mod one_cluster;
mod restore;
mod status_page;
mod stores;
mod stuck;
mod supervised;
mod takeover;
mod test_cluster;
mod tls;
mod traces;
mod unreached;
mod upgrade;
mod why_nobody_leads;
