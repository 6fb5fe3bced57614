//! Domain names.

use crate::validate::Invalid;

const MAX_DOMAIN_BYTES: usize = 253;
const MAX_CLUSTER_DOMAIN_BYTES: usize = 80;
const MAX_PART_BYTES: usize = 63;

/// A lower-case domain name without a trailing dot that cannot be mistaken for an IP address. The error gives the
/// reason.
pub(crate) fn domain(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("must not be empty");
    }
    if name.len() > MAX_DOMAIN_BYTES {
        return Err("must be at most 253 bytes");
    }
    for part in name.split('.') {
        if part.is_empty() || part.len() > MAX_PART_BYTES {
            return Err("each DNS label must be 1 to 63 bytes long");
        }
        if !part
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        {
            return Err("may contain only lower-case letters, digits, '-' and '.'");
        }
        if part.starts_with('-') || part.ends_with('-') {
            return Err("a DNS label must not begin or end with '-'");
        }
    }
    match name.rsplit('.').next() {
        Some(last) if is_number(last) => Err("the last DNS label must not be a number"),
        _ => Ok(()),
    }
}

fn is_number(part: &str) -> bool {
    match part.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|c| c.is_ascii_hexdigit()),
        None => part.bytes().all(|c| c.is_ascii_digit()),
    }
}

/// The cluster domain, which is shorter to leave room for names below it.
pub(crate) fn cluster_domain(name: &str) -> Result<(), Invalid> {
    let invalid = |reason: &str| Invalid::new("cluster_domain", reason);
    if name.len() > MAX_CLUSTER_DOMAIN_BYTES {
        return Err(invalid("must be at most 80 bytes"));
    }
    domain(name).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        for good in ["cluster.internal", "a", "a-b.c", "1.a", "0xg", "a.0y", &"x".repeat(63)] {
            domain(good).expect(good);
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "A",
            "-a",
            "a-",
            "a.1",
            "1",
            "0x",
            "a.0xff",
            "a_b",
            &"x".repeat(64),
            "ä",
        ] {
            domain(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_clusters_domain_is_at_most_80_bytes() {
        let long = format!("{}.{}", "x".repeat(40), "y".repeat(39));
        cluster_domain(&long).expect("80 bytes");
        cluster_domain(&format!("{long}y")).expect_err("81 bytes");
    }
}
