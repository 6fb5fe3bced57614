//! The status server of an instance: metrics, liveness, readiness and a status page, over plain HTTP on an address of
//! its own.
//!
//! It answers anyone who can connect, so by default it listens on loopback. It serves no secrets and changes nothing.

#[cfg(test)]
pub(crate) mod counted;
mod gauges;
mod http;
mod page;
pub(crate) mod term_history;

use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) use http::{StatusServer, StatusSources};

/// Configuration of the status server.
#[derive(Clone)]
pub struct Observe {
    /// The listen address; with port 0 the system chooses a port, which is logged.
    pub listen: SocketAddr,
    /// Renders the metrics in Prometheus text format; provided by the installer of the `metrics` recorder.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The default port of the status server, on loopback.
pub const OBSERVE_PORT: u16 = 7836;
