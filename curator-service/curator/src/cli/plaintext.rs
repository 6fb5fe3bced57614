//! Detects etcd endpoints that expose the cluster's private keys on the network.

use std::net::IpAddr;

use tonic::transport::Uri;

/// A warning about `http` endpoints that are not, or may not be, on this host.
pub(crate) fn warning(endpoints: &[String]) -> Option<String> {
    let exposed: Vec<_> = endpoints
        .iter()
        .map(|endpoint| endpoint.trim())
        .filter(|endpoint| is_exposed(endpoint))
        .collect();
    (!exposed.is_empty()).then(|| {
        format!(
            "etcd is reached without TLS beyond this host ({}): the state contains the cluster's private keys, and anyone who \
             can read the traffic or connect to etcd can read them. Use https with client certificates: \
             docs/running-three-nodes.md",
            exposed.join(", ")
        )
    })
}

fn is_exposed(endpoint: &str) -> bool {
    // An invalid URL is rejected elsewhere.
    let Ok(url) = endpoint.parse::<Uri>() else {
        return false;
    };
    if !url
        .scheme_str()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http"))
    {
        return false;
    }
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) => !address.to_canonical().is_loopback(),
        Err(_) => !host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plaintext_beyond_this_host_is_warned_of() {
        for (endpoint, exposed) in [
            ("http://10.0.0.1:2379", true),
            (" HTTP://etcd-0:2379", true),
            ("http://[2001:db8::1]:2379", true),
            ("http://[fe80::1%eth0]:2379", true),
            ("http://127.0.0.1:2379", false),
            ("http://127.0.0.9:2379/", false),
            ("http://[::1]:2379", false),
            ("http://[::ffff:127.0.0.1]:2379", false),
            ("http://localhost:2379", false),
            ("https://10.0.0.1:2379", false),
            ("unix:///run/etcd.sock", false),
        ] {
            assert_eq!(is_exposed(endpoint.trim()), exposed, "{endpoint}");
            let warned = warning(&[endpoint.to_owned()]);
            assert_eq!(
                warned.is_some_and(|said| said.contains(endpoint.trim())),
                exposed,
                "{endpoint}"
            );
        }
    }
}
