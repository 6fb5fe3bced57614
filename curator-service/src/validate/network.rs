//! The cluster network: WireGuard keys and node prefixes.

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};

use crate::validate::Invalid;

/// The network that node prefixes are allocated from.
const CLUSTER_NETWORK: Cidr = Cidr {
    address: IpAddr::V4(Ipv4Addr::new(10, 192, 0, 0)),
    length: 11,
};

/// An address and a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) length: u8,
}

impl Cidr {
    fn bits(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The address, as the leading bits of 128.
    fn number(self) -> u128 {
        match self.address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => address.into(),
        }
    }

    fn mask(self) -> u128 {
        match self.length {
            0 => 0,
            length => u128::MAX << (128 - u32::from(length)),
        }
    }

    /// Whether the address has host bits set.
    fn has_host_bits(self) -> bool {
        self.number() & !self.mask() != 0
    }

    fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && other.length >= self.length
            && other.number() & self.mask() == self.number() & self.mask()
    }
}

/// Parses `address/length`.
pub(crate) fn cidr(text: &str) -> Result<Cidr, &'static str> {
    let (address, length) = text
        .split_once('/')
        .ok_or("must be in CIDR notation (address/length)")?;
    let address: IpAddr = address.parse().map_err(|_| "invalid IP address")?;
    let digits =
        !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let length = digits
        .then(|| length.parse().ok())
        .flatten()
        .ok_or("invalid prefix length")?;
    let cidr = Cidr { address, length };
    if length > cidr.bits() {
        return Err("prefix length exceeds the address length");
    }
    Ok(cidr)
}

/// A prefix that a node may use: within the cluster network, or exactly the node's external address.
pub(crate) fn cluster_network_prefix(text: &str, external_address: &str) -> Result<Cidr, Invalid> {
    let invalid = |reason: &str| {
        let shown: String = text.chars().take(100).collect();
        Invalid::new(format!("clusternet.prefixes.cidr {shown:?}"), reason)
    };
    let prefix = cidr(text).map_err(invalid)?;
    if prefix.has_host_bits() {
        return Err(invalid("host bits must be zero"));
    }
    let own = prefix.length == prefix.bits() && prefix.address.to_string() == external_address;
    if own || CLUSTER_NETWORK.contains(prefix) {
        return Ok(prefix);
    }
    Err(invalid(
        "must be within 10.192.0.0/11 or exactly the node's external address",
    ))
}

/// Lenient like the original's decoder: unused bits of the last character may have any value.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// A WireGuard public key in base64, returned in canonical form.
pub(crate) fn wireguard_key(text: &str) -> Result<String, Invalid> {
    let invalid = |reason: &str| Invalid::new("clusternet.wireguard_pubkey", reason);
    if text.is_empty() {
        return Err(invalid("must not be empty"));
    }
    let key = LENIENT.decode(text).map_err(|_| invalid("must be base64"))?;
    if key.len() != 32 {
        return Err(invalid("must encode 32 bytes"));
    }
    Ok(STANDARD.encode(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_nodes() {
        let own = "203.0.113.42";
        for good in [
            "10.192.0.0/24",
            "10.192.0.0/11",
            "10.195.12.23/32",
            "203.0.113.42/32",
            "10.223.255.255/32",
        ] {
            cluster_network_prefix(good, own).expect(good);
        }
        cluster_network_prefix("2001:db8::1/128", "2001:db8::1").expect("its own");
        for bad in [
            "",
            "10.192.0.128/16",
            "10.192.0.0/10",
            "8.8.8.8/32",
            "10.224.0.0/24",
            "203.0.113.42/31",
            "10.192.0.0",
            "10.192.0.0/",
            "10.192.0.0/024",
            "10.192.0.0/+24",
            "10.192.0.0/33",
            "::ffff:10.192.0.0/128",
            "0.0.0.0/0",
            "::/0",
            "x/24",
        ] {
            cluster_network_prefix(bad, own).expect_err(bad);
        }
    }

    #[test]
    fn wireguard_keys() {
        let good = STANDARD.encode([7; 32]);
        assert_eq!(wireguard_key(&good).as_ref(), Ok(&good));
        // The same key in another encoding: two nodes must not share it.
        let same = good.replace("c=", "d=");
        assert_ne!(same, good);
        assert_eq!(wireguard_key(&same).as_ref(), Ok(&good));
        for bad in ["", "!", &STANDARD.encode([7; 31]), &good[..43]] {
            wireguard_key(bad).expect_err(bad);
        }
    }
}
