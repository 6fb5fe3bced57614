//! The keys of the state, within the Curator's namespace. The layout is the original's, so that each reads the other's data.

use bytes::Bytes;
use curator_identity::hex;

/// Everything that the Curator has in its namespace begins with this.
pub(crate) const ALL: &str = "/";
/// The cluster's configuration.
pub(crate) const CLUSTER_CONFIGURATION: &str = "/cluster/configuration";
/// Whose key may have the first owner's certificate.
pub(crate) const INITIAL_OWNER: &str = "/global/initial_owner";
/// What a node must show to register.
pub(crate) const REGISTER_TICKET: &str = "/global/register_ticket";

/// The ids of nodes: `/nodes/<id>` to the node's record.
pub(crate) const NODES: Prefix = Prefix("/nodes/");
/// The index of join keys: `/join_keys/<hex of the key>` to the node's id.
pub(crate) const JOIN_KEYS: Prefix = Prefix("/join_keys/");
/// Nodes that are being decommissioned: `/decommissions/<id>`. The original knows nothing of these.
pub(crate) const DECOMMISSIONS: Prefix = Prefix("/decommissions/");
/// Nodes that were up and are deleted: `/deleted_nodes/<id>`. The original knows nothing of these either.
pub(crate) const DELETED_NODES: Prefix = Prefix("/deleted_nodes/");

/// How nodes have registered: `/registrations/<id>`. Nor of these.
pub(crate) const REGISTRATIONS: Prefix = Prefix("/registrations/");

/// What the leader keeps a view of. Neither the election's keys nor private keys are among it.
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

/// Whether the leader keeps a view of this key.
pub(crate) fn is_viewed(key: &[u8]) -> bool {
    VIEWED.iter().any(|prefix| key.starts_with(prefix.as_bytes())) && !key.starts_with(PRIVATE_KEYS.as_bytes())
}

/// A place for keys that are named by one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(&'static str);

/// What cannot be the last component of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{id:?} cannot be part of a key: it must not be empty, nor contain a slash or a control character, nor exceed 255 bytes"
)]
pub(crate) struct InvalidId {
    id: String,
}

const MAX_ID_BYTES: usize = 255;

impl Prefix {
    /// The key for an id.
    pub(crate) fn key(self, id: &str) -> Result<Bytes, InvalidId> {
        if id.is_empty() || id.len() > MAX_ID_BYTES || id.contains(|c: char| c == '/' || c.is_control()) {
            let id = id.chars().take(MAX_ID_BYTES).collect();
            return Err(InvalidId { id });
        }
        Ok([self.0, id].concat().into())
    }

    /// The id in a key, if the key is one of these.
    pub(crate) fn id(self, key: &[u8]) -> Option<&str> {
        let id = std::str::from_utf8(key.strip_prefix(self.0.as_bytes())?).ok()?;
        (!id.is_empty() && !id.contains('/')).then_some(id)
    }
}

/// The key of a join key in the index.
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
