//! What the integration tests stand on: real etcd members, real `curator` processes, and the faults between them.
//!
//! Everything blocks, every wait has an upper bound, and whatever was started is stopped when its owner is dropped:
//! processes are killed and reaped, threads are joined, ports are given back. When the test panics, the scratch
//! directory stays, and the end of every process's log is printed.

//!
//! ```no_run
//! use std::time::Duration;
//! use curator_harness::{EtcdBinaries, EtcdCluster, EtcdOptions, TempDir};
//!
//! # fn main() -> curator_harness::Result<()> {
//! let scratch = TempDir::new("example")?;
//! let etcd = EtcdCluster::start(&EtcdBinaries::from_env()?, &scratch, EtcdOptions::default())?;
//! etcd.isolate(0)?;
//! etcd.wait_member_unhealthy(0, Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "blocking, beside the product: it has no runtime to block, and measures wall time only"
)]

pub mod checkout;
pub mod child;
pub mod clock;
pub mod curator;
pub mod documents;
pub mod error;
pub mod etcd;
mod etcdctl;
pub mod foreign;
pub mod guides;
pub mod history;
pub mod hosts;
pub mod http;
pub mod journal;
mod lines;
mod memory;
pub mod peers;
pub mod ports;
pub mod process;
mod process_timeline;
pub mod proxy;
pub mod run;
pub mod signals;
pub mod single_node;
mod sock_diag;
mod socket_owner;
pub mod step;
pub mod temp_dir;
pub mod timeline;
pub mod which;

pub use clock::{Deadline, wait_until};
pub use curator::{CuratorOptions, CuratorProcess, Event, Led, Role, RoleChange};
pub use error::{Context, Error, Result};
pub use etcd::{At, EtcdBinaries, EtcdCluster, EtcdOptions, EtcdTls};
pub use etcdctl::{KeyValue, LeaseInfo};
pub use hosts::{Host, Hosts, Link};
pub use journal::{Journal, Mark};
pub use lines::Line;
pub use memory::{peak, resident};
pub use peers::PeerNetwork;
pub use ports::Port;
pub use process::{Capture, Process, ProcessSpec, Recorded};
pub use process_timeline::ProcessTimeline;
pub use proxy::{Direction, Flow, ProxyStats, TcpProxy};
pub use single_node::SingleNode;
pub use temp_dir::TempDir;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock even when a thread panicked while it held it: the harness must still be able to clean up then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
