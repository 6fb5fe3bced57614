//! Resources that belong to a single node: its prefixes in the cluster network, and the address of a consensus member.
//!
//! Traffic to a prefix goes to its owner, and consensus members are contacted at their address. So a node must not
//! claim what another node has claimed before. Shared loopback addresses are exempt: several nodes on one host report
//! loopback.

use std::net::IpAddr;

use tonic::Status;

use crate::state::record::NodeRecord;
use crate::state::view::View;
use crate::validate::{Cidr, Invalid, cidr};

/// The other nodes with valid records.
fn others<'a>(view: &'a View, own: &'a str) -> impl Iterator<Item = &'a NodeRecord> {
    view.nodes()
        .filter(move |(id, _)| ***id != *own)
        .filter_map(|(_, node)| node.as_ref().ok().map(|node| &**node))
}

/// Refuses prefixes that overlap those of another node, or its external address.
pub(in crate::leader) fn check_prefixes(view: &View, own: &str, prefixes: &[Cidr]) -> Result<(), Status> {
    let mut ranges: Vec<(u128, u128)> = prefixes.iter().map(range).collect();
    ranges.sort_unstable();
    // For each start, the farthest end so far: prefixes of one node may nest.
    let mut farthest = 0;
    for (_, last) in &mut ranges {
        farthest = farthest.max(*last);
        *last = farthest;
    }
    let meets = |other: &Cidr| {
        let (first, last) = range(other);
        let earlier = ranges.partition_point(|(begins, _)| *begins <= last);
        ranges[..earlier].last().is_some_and(|(_, reach)| *reach >= first)
    };
    for node in others(view, own) {
        let net = node.message().clusternet.iter().flat_map(|net| &net.prefixes);
        let taken = net.filter_map(|prefix| cidr(&prefix.cidr).ok()).find(&meets);
        let address = node.external_address().parse().ok();
        let address = address
            .filter(|ip: &IpAddr| !ip.is_loopback())
            .map(alone)
            .filter(&meets);
        if let Some(Cidr { address, length }) = taken.or(address) {
            let reason = format!("{address}/{length} belongs to node {}", node.id());
            return Err(Invalid::new("clusternet.prefixes", reason).into());
        }
    }
    Ok(())
}

/// Refuses the address of another node that is a consensus member.
pub(in crate::leader) fn check_address(view: &View, own: &str, address: &str) -> Result<(), Status> {
    let parsed: Option<IpAddr> = address.parse().ok();
    if parsed.is_some_and(|ip| ip.is_loopback()) {
        return Ok(());
    }
    let is_there = |node: &&NodeRecord| {
        node.roles().consensus_member.is_some() && node.external_address().parse::<IpAddr>().ok() == parsed
    };
    match others(view, own).find(is_there) {
        None => Ok(()),
        Some(node) => Err(Invalid::new(
            "status.external_address",
            format!("already used by consensus member {}", node.id()),
        )
        .into()),
    }
}

/// An address as a single-host prefix.
fn alone(address: IpAddr) -> Cidr {
    let length = if address.is_ipv4() { 32 } else { 128 };
    Cidr { address, length }
}

/// The first and last address of a prefix; IPv4 is mapped into IPv6.
fn range(prefix: &Cidr) -> (u128, u128) {
    let (first, bits) = match prefix.address {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped().to_bits(), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let rest = u32::from(prefix.length).min(bits).abs_diff(bits);
    let mask = 1_u128.checked_shl(rest).map_or(u128::MAX, |beyond| beyond - 1);
    (first & !mask, first | mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_prefixes() {
        let of = |text: &str| range(&cidr(text).unwrap());
        let (first, last) = of("10.192.0.0/11");
        assert_eq!(last - first, (1 << 21) - 1);
        assert_eq!(of("10.192.0.1/32").0, first + 1);
        assert_eq!(of("0.0.0.0/0"), (0xffff_0000_0000, 0xffff_ffff_ffff));
        assert_eq!(of("::/0"), (0, u128::MAX));
    }
}
