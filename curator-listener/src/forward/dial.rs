//! Opening a byte stream to the leader: TCP, and the TLS handshake if the listener encrypts.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::ListenerConfig;
use crate::tls::{Tls, offers_http2};
use crate::transport::{Io, Plain};

/// Why a connection to the leader cannot be made.
const NO_HTTP2: &str = "the TLS configuration for the leader does not offer h2 in ALPN: add b\"h2\" to the \
                        `alpn_protocols` of the `ClientConfig` that `ToLeader::config` returns";

/// Connects by TCP, or within the simulated network.
#[cfg_attr(not(feature = "simulation"), allow(unused_variables))]
pub(crate) async fn connect(address: &str, config: &ListenerConfig) -> io::Result<Plain> {
    #[cfg(feature = "simulation")]
    if let Some(host) = &config.simulated {
        let address = address.parse().map_err(io::Error::other)?;
        return Ok(Plain::Other(Box::new(host.connect(address).await?)));
    }
    let stream = TcpStream::connect(address).await?;
    // Otherwise small messages would wait for the acknowledgement of the previous one (Nagle).
    stream.set_nodelay(true)?;
    Ok(Plain::Tcp(stream))
}

/// Does the TLS handshake with the leader on a node.
pub(crate) async fn handshake(stream: Plain, tls: &Tls, node_id: &str, address: &str) -> io::Result<Io> {
    let config = tls.to_leader.config(node_id).map_err(io::Error::other)?;
    if !offers_http2(&config.alpn_protocols) {
        return Err(io::Error::other(NO_HTTP2));
    }
    let name = tls.to_leader.server_name(node_id, address).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Io::Tls(Box::new(stream.into())))
}
