//! What an instance tells people and machines that look after it, over plain HTTP on an address of its own: metrics, whether it is
//! alive and ready, and a page.
//!
//! It answers whoever can connect, so by default that is this host. There are no secrets in it: who leads and since when, counts and
//! times. It changes nothing.

#[cfg(test)]
pub(crate) mod counted;
mod gauges;
mod http;
mod page;
pub(crate) mod term_history;

use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) use http::{StatusServer, StatusSources};

/// Where an instance is looked at.
#[derive(Clone)]
pub struct Observe {
    /// The address to listen on; with port 0 one is chosen, and logged.
    pub listen: SocketAddr,
    /// Renders the metrics as Prometheus reads them: whoever has installed a recorder of the `metrics` crate knows how.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// The port that an instance is looked at by, on loopback.
pub const OBSERVE_PORT: u16 = 7836;
