//! Asks the kernel for one TCP socket by its two addresses, over a netlink socket (`sock_diag(7)`). Unlike the table in
//! `/proc`, which is always walked as a whole, this costs microseconds.

use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// The kernel answers at once; this only bounds the unthinkable.
const ANSWER: Duration = Duration::from_secs(2);

/// `SOCK_DIAG_BY_FAMILY`, the type of the question and of the answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`, the type of a refusal.
const REFUSAL: u16 = 2;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const IPPROTO_TCP: u8 = 6;
const ENOENT: i32 = 2;

/// Where things are in a message: after the header of 16 bytes come four bytes and the socket's id of 48, and in the
/// answer then four numbers of four bytes each before the inode.
const HEADER: usize = 16;
const INODE: usize = HEADER + 4 + 48 + 16;

/// The inode of the socket with that local and that remote address. `None` when there is none that a process holds.
pub(super) fn inode(local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<Option<u64>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER))?;
    sendto(
        &socket,
        &question(local, remote),
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut buffer = [0; 8192];
    let (count, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    answer(&buffer[..count])
}

fn question(local: SocketAddrV4, remote: SocketAddrV4) -> Vec<u8> {
    let address = |address: SocketAddrV4| {
        let mut field = [0; 16];
        field[..4].copy_from_slice(&address.ip().octets());
        field
    };
    let mut message = Vec::new();
    message.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    // Sockets in all states.
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    message.extend(address(local));
    message.extend(address(remote));
    // On any interface, and with any cookie.
    message.extend(0_u32.to_ne_bytes());
    message.extend([0xff; 8]);

    let length = (HEADER + message.len()) as u32;
    let mut whole = Vec::new();
    whole.extend(length.to_ne_bytes());
    whole.extend(BY_FAMILY.to_ne_bytes());
    whole.extend(REQUEST.to_ne_bytes());
    // The sequence number, and the sender for the kernel to fill in.
    whole.extend([0; 8]);
    whole.extend(message);
    whole
}

fn answer(message: &[u8]) -> io::Result<Option<u64>> {
    let number = |at: usize| {
        message
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok().map(u32::from_ne_bytes))
    };
    let kind = message
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok().map(u16::from_ne_bytes));
    let broken = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer about a socket is cut short",
        )
    };
    match kind {
        Some(BY_FAMILY) => match number(INODE).ok_or_else(broken)? {
            0 => Ok(None),
            inode => Ok(Some(inode.into())),
        },
        Some(REFUSAL) => match number(HEADER).ok_or_else(broken)?.cast_signed() {
            error if error == -ENOENT => Ok(None),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        _ => Err(broken()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_broken_ones_refused() {
        let message = |kind: u16, length: usize, at: usize, number: i32| {
            let mut message = vec![0; length];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[at..at + 4].copy_from_slice(&number.to_ne_bytes());
            message
        };
        assert_eq!(answer(&message(BY_FAMILY, 100, INODE, 475)).unwrap(), Some(475));
        assert_eq!(answer(&message(BY_FAMILY, 100, INODE, 0)).unwrap(), None);
        assert_eq!(answer(&message(REFUSAL, 36, HEADER, -ENOENT)).unwrap(), None);
        assert_eq!(
            answer(&message(REFUSAL, 36, HEADER, -1)).unwrap_err().raw_os_error(),
            Some(1)
        );
        assert!(answer(&message(BY_FAMILY, 60, HEADER, 1)).is_err());
        assert!(answer(&[]).is_err());
    }
}
