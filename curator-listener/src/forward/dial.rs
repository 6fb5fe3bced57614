//! Opening a byte stream to the leader: TCP, and the TLS handshake if the listener encrypts.

use std::io;

use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::ListenerConfig;
use crate::tls::Tls;
use crate::transport::{self, Io, Plain};

/// Connects by TCP, or within the simulated network.
#[cfg_attr(not(feature = "simulation"), allow(unused_variables))]
pub(crate) async fn connect(address: &str, config: &ListenerConfig) -> io::Result<Plain> {
    #[cfg(feature = "simulation")]
    if let Some(host) = &config.simulated {
        let address = address.parse().map_err(io::Error::other)?;
        return Ok(Plain::Right(host.connect(address).await?));
    }
    let stream = TcpStream::connect(address).await?;
    // Otherwise small messages would wait for the acknowledgement of the previous one (Nagle).
    stream.set_nodelay(true)?;
    Ok(transport::plain(stream))
}

/// Does the TLS handshake with the leader on a node.
pub(crate) async fn handshake(stream: Plain, tls: &Tls, node_id: &str) -> io::Result<Io> {
    let config = tls.to_leader.config(node_id).map_err(io::Error::other)?;
    // The configuration verifies the leader by itself; the API requires a server name.
    let name = ServerName::try_from(node_id.to_owned())
        .unwrap_or_else(|_| ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0]))));
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Io::Tls(Box::new(stream.into())))
}
