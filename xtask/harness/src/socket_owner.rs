//! Which of our processes opened a connection: the system knows, and tells.
//!
//! An etcd member dials its peers from any free port, and not all of its requests say who sent them. The kernel leads
//! from the two addresses of a connection to the inode of the client's socket, and a process's list of open files from
//! the inode to the process.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};

use super::sock_diag;

/// The one of `candidates` (some name, and a pid) that holds the client's end of a connection to `server`.
pub(crate) fn owner(client: SocketAddr, server: SocketAddr, candidates: &[(usize, u32)]) -> Option<usize> {
    let (SocketAddr::V4(client), SocketAddr::V4(server)) = (client, server) else {
        return None;
    };
    let wanted = format!("socket:[{}]", inode(client, server)?);
    let holds = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| target.as_os_str() == wanted.as_str())
    };
    candidates.iter().find(|(_, pid)| holds(*pid)).map(|(name, _)| *name)
}

/// The inode of the socket at the client's end, unless nobody holds it any more.
fn inode(client: SocketAddrV4, server: SocketAddrV4) -> Option<u64> {
    match sock_diag::inode(client, server) {
        Ok(inode) => inode,
        // Some sandboxes have no such sockets. The table takes milliseconds to read, however few the connections.
        Err(_) => inode_in(&fs::read_to_string("/proc/self/net/tcp").ok()?, client, server),
    }
}

/// The same from the kernel's table as text.
fn inode_in(table: &str, client: SocketAddrV4, server: SocketAddrV4) -> Option<u64> {
    let (local, remote) = (hex(client), hex(server));
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let same = *fields.get(1)? == local && *fields.get(2)? == remote;
        // A socket that nobody holds any more has inode 0.
        if same {
            fields.get(9)?.parse().ok().filter(|inode| *inode != 0)
        } else {
            None
        }
    })
}

/// An address as the table writes it: the bytes as a number of this machine, then the port.
fn hex(address: SocketAddrV4) -> String {
    format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(address.ip().octets()),
        address.port()
    )
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:4E20 0100007F:8001 01 00000000:00000000 00:00000000 00000000 0 0 11 1 0 20 4 30 10 -1\n\
            1: 0100007F:8001 0100007F:4E20 01 00000000:00000000 00:00000000 00000000 0 0 475 1 0 20 4 30 10 -1\n\
            2: 0100007F:8002 0100007F:4E20 06 00000000:00000000 00:00000000 00000000 0 0 0 1 0 20 4 30 10 -1\n";
        let here = |port| format!("127.0.0.1:{port}").parse().unwrap();
        assert_eq!(inode_in(table, here(0x8001), here(20_000)), Some(475));
        assert_eq!(inode_in(table, here(0x8002), here(20_000)), None, "it has been closed");
        assert_eq!(inode_in(table, here(0x8003), here(20_000)), None);
    }

    #[test]
    fn our_own_connection_is_found_to_be_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let from = client.local_addr().unwrap();
        let us = std::process::id();
        assert_eq!(owner(from, server, &[(3, 1), (7, us)]), Some(7));

        // Both ways of asking the kernel give one answer.
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, server) else {
            unreachable!()
        };
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        if let Ok(inode) = sock_diag::inode(from, to) {
            assert_eq!(inode, inode_in(&table, from, to));
        }
        drop(client);
        assert_eq!(owner(SocketAddr::V4(from), server, &[(7, us)]), None);
    }
}
