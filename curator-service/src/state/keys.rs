//! The keys of the state, within the Curator's namespace. The layout is that of the Go Curator: each can read the
//! other's data.

use bytes::Bytes;
use curator_identity::hex;

/// The prefix of all of the Curator's keys in its namespace.
pub(crate) const ALL: &str = "/";
/// The cluster's configuration.
pub(crate) const CLUSTER_CONFIGURATION: &str = "/cluster/configuration";
/// The public key that may get the first owner's certificate.
pub(crate) const INITIAL_OWNER: &str = "/global/initial_owner";
/// The ticket that a node must present to register.
pub(crate) const REGISTER_TICKET: &str = "/global/register_ticket";

/// Node records: `/nodes/<id>`.
pub(crate) const NODES: Prefix = Prefix("/nodes/");
/// The index of join keys: `/join_keys/<hex of the key>`, whose value is the node's id.
pub(crate) const JOIN_KEYS: Prefix = Prefix("/join_keys/");
/// Nodes that are being decommissioned: `/decommissions/<id>`. Unknown to the Go Curator.
pub(crate) const DECOMMISSIONS: Prefix = Prefix("/decommissions/");
/// Deleted nodes that were up: `/deleted_nodes/<id>`. Unknown to the Go Curator.
pub(crate) const DELETED_NODES: Prefix = Prefix("/deleted_nodes/");

/// How nodes have registered: `/registrations/<id>`. Unknown to the Go Curator.
pub(crate) const REGISTRATIONS: Prefix = Prefix("/registrations/");

/// The states of services that an embedder adds: `/embedded/<name>/...`. Unknown to the Go Curator.
pub(crate) const EMBEDDED: Prefix = Prefix("/embedded/");

/// The prefixes that the leader's view has. The election's keys and private keys are excluded.
pub(crate) const VIEWED: [&str; 8] = [
    "/nodes/",
    "/join_keys/",
    "/decommissions/",
    "/deleted_nodes/",
    "/registrations/",
    "/cluster/",
    "/global/",
    "/cluster-pki/",
];
const PRIVATE_KEYS: &str = "/cluster-pki/keys/";

/// Whether the leader's view has this key.
pub(crate) fn is_viewed(key: &[u8]) -> bool {
    VIEWED.iter().any(|prefix| key.starts_with(prefix.as_bytes())) && !key.starts_with(PRIVATE_KEYS.as_bytes())
}

/// A prefix of keys with one more component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(&'static str);

/// An id that cannot be the last component of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid id {id:?}: it must have 1 to 255 bytes and contain no slash or control character")]
pub(crate) struct InvalidId {
    id: String,
}

const MAX_ID_BYTES: usize = 255;

impl Prefix {
    /// The key of an id.
    pub(crate) fn key(self, id: &str) -> Result<Bytes, InvalidId> {
        if id.is_empty() || id.len() > MAX_ID_BYTES || id.contains(|c: char| c == '/' || c.is_control()) {
            let id = id.chars().take(MAX_ID_BYTES).collect();
            return Err(InvalidId { id });
        }
        Ok([self.0, id].concat().into())
    }

    /// The id in a key; `None` if the key has another prefix.
    pub(crate) fn id(self, key: &[u8]) -> Option<&str> {
        let id = std::str::from_utf8(key.strip_prefix(self.0.as_bytes())?).ok()?;
        (!id.is_empty() && !id.contains('/')).then_some(id)
    }
}

/// The key of a join key's index entry.
pub(crate) fn join_key(public_key: &[u8]) -> Bytes {
    [JOIN_KEYS.0, &hex(public_key)].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_makes_a_key_and_comes_back_from_it() {
        assert_eq!(NODES.key("bar").unwrap(), "/nodes/bar");
        assert_eq!(NODES.id(b"/nodes/bar"), Some("bar"));
        for key in ["/nodes/", "/nodes0", "/nodes", "bar", "/nodes/bar/baz"] {
            assert_eq!(NODES.id(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn ids_that_would_reach_elsewhere_are_refused() {
        let long = "x".repeat(256);
        for id in ["", "a/b", "/", "a\nb", "a\0b", &long] {
            assert!(NODES.key(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn join_keys_are_lower_case_hex() {
        assert_eq!(join_key(&[0xab, 0x01]), "/join_keys/ab01");
    }

    #[test]
    fn private_keys_and_the_election_are_not_viewed() {
        assert!(is_viewed(b"/nodes/a") && is_viewed(b"/cluster-pki/issued/owner-cert.der"));
        for key in [
            "/leader/1",
            "/cluster-pki/keys/cluster-ca-privkey.bin",
            "/kubernetes/reconciler/status",
        ] {
            assert!(!is_viewed(key.as_bytes()), "{key}");
        }
    }
}
