//! Ports of the loopback address that no other run of the harness on this machine uses at the same time, and ports of
//! hosts that nobody else has.
//!
//! A port is ours while we hold an exclusive lock on its file in a directory that all runs of this user share. The
//! system drops such a lock with the process, however that ends, so that nothing is ever left to clean up.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use rustix::process::geteuid;

use super::hosts::Host;
use crate::error::{Context, Error, Result};

/// Below the ports from which the system serves outgoing connections (32768 and up by default), and above the
/// well-known.
const DEFAULT_END: u16 = 32_000;
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1 that is ours until this is dropped, or one of a host that is ours.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    // Holds the lock. The file itself stays: to remove it would let two runs lock two files of one name.
    _lock: Option<File>,
}

impl Port {
    /// Reserves one that nobody listens on.
    ///
    /// # Errors
    /// When the directory of the locks cannot be used, or no port is free.
    pub fn reserve() -> Result<Self> {
        let directory = directory()?;
        let (first, end) = range();
        let count = end - first;
        // Each try starts somewhere else, so that runs side by side seldom look at the same port.
        let offset = (RandomState::new().hash_one(std::process::id()) % u64::from(count)) as u16;
        for step in 0..count {
            let number = first + (offset + step) % count;
            let path = directory.join(format!("{number}.lock"));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .context(|| format!("cannot open {}", path.display()))?;
            if file.try_lock().is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self {
                    address: (Ipv4Addr::LOCALHOST, number).into(),
                    _lock: Some(file),
                });
            }
        }
        Err(Error::new(format!(
            "no port of 127.0.0.1 between {first} and {} is free: end what holds them",
            end - 1
        )))
    }

    /// That one of a host.
    pub fn of(host: &Host, number: u16) -> Self {
        Self {
            address: (host.address(), number).into(),
            _lock: None,
        }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.address.port()
    }

    /// The address with this port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

fn directory() -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("curator-ports-{}", geteuid().as_raw()));
    fs::create_dir_all(&path).context(|| format!("cannot create {} for the locks of ports", path.display()))?;
    Ok(path)
}

/// The first port and the one after the last.
fn range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    below(text.split_whitespace().next().and_then(|low| low.parse().ok()))
}

/// The range, given the lowest port that the system picks by itself.
fn below(ephemeral: Option<u16>) -> (u16, u16) {
    match ephemeral {
        // Far down there are no 12,000 ports left beneath it: the check by binding must do.
        Some(low) if low < DEFAULT_END && low > COUNT + 1024 => (low - COUNT, low),
        _ => (DEFAULT_END - COUNT, DEFAULT_END),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_lies_below_the_systems_own() {
        assert_eq!(below(Some(32_768)), (20_000, 32_000));
        assert_eq!(below(Some(20_000)), (8_000, 20_000));
        assert_eq!(below(Some(1_024)), (20_000, 32_000));
        assert_eq!(below(None), (20_000, 32_000));
    }
}
