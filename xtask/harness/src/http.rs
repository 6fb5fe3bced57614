//! One HTTP GET on the loopback address: enough to ask etcd for its health.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::clock::Deadline;
use crate::error::{Context, Error, Result};

/// The status and the body of the answer.
///
/// # Errors
/// When there is no answer in time, or what comes is not HTTP.
pub fn get(address: SocketAddr, path: &str, within: Duration) -> Result<(u16, String)> {
    let deadline = Deadline::after(within);
    let what = || format!("GET http://{address}{path}");
    let left = || match deadline.remaining() {
        // The system takes a zero for no bound at all.
        left if left.is_zero() => Err(deadline.missed(what())),
        left => Ok(left),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?).context(what)?;
    stream.set_write_timeout(Some(left()?)).context(what)?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .context(what)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left()?)).context(what)?;
        match stream.read(&mut chunk).context(what)? {
            0 => break,
            count => answer.extend_from_slice(&chunk[..count]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(Error::new(format!("{}: the answer is not HTTP", what()))),
    }
}
