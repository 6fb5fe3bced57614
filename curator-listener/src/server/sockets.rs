//! Opening sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// As many connections may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Listens on an address; on `[::]` for IPv4 as well.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Connections of a process that has just ended must not keep its successor from the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_is_reached_by_both_families() {
        let listener = match listen("[::]:0".parse().expect("an address")) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97) => {
                println!("SKIPPED: this machine has no IPv6");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let port = listener.local_addr().expect("bound").port();
        for address in ["127.0.0.1", "[::1]"] {
            let address: SocketAddr = format!("{address}:{port}").parse().expect("an address");
            TcpStream::connect(address)
                .await
                .unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    }
}
