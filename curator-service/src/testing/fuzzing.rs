//! Properties that hold for any bytes from a peer or the store, for property tests and the targets in `fuzz/`.
//!
//! Each function takes bytes and panics if a property is violated.

use bytes::Bytes;
use curator_election::store::{Op, Revision};
use curator_proto::{common, curator_api, management_api, private};
use prost::{Message, Name};

use crate::leader::fuzzing as leader;
use crate::state::keys::NODES;
use crate::state::record::{ClusterRecord, NodeRecord, decode, encode};
use crate::state::tx::Tx;
use crate::state::view::View;
use crate::validate;

/// A stored node is decoded or refused. Encoded and decoded again it is equal, and no unknown field is lost.
pub fn stored_node(bytes: &[u8]) {
    let value = Bytes::copy_from_slice(bytes);
    let id = private::Node::decode(bytes).map(|node| node.id).unwrap_or_default();
    let id = if NODES.key(&id).is_ok() { id } else { "n".into() };
    let Ok(record) = NodeRecord::decode(&id, &value) else {
        return;
    };
    let view = View::default();
    let mut tx = Tx::new(&view);
    // A node without a join key cannot be saved.
    if record.clone().save(&mut tx).is_err() {
        return;
    }
    let Some(change) = tx.into_change() else {
        panic!("a save that writes nothing")
    };
    let key = NODES.key(&id).unwrap_or_else(|_| unreachable!("it was one above"));
    let written = change.ops.into_iter().find_map(|op| match op {
        Op::Put { key: at, value, .. } if at == key => Some(value),
        _ => None,
    });
    let Some(written) = written else {
        panic!("a save without the record")
    };
    let again = NodeRecord::decode(&id, &written);
    assert_eq!(
        again.as_ref().ok().map(NodeRecord::message),
        Some(record.message()),
        "a record that is not what was written"
    );
}

/// Any other stored message.
pub fn stored_message(bytes: &[u8]) {
    let value = Bytes::copy_from_slice(bytes);
    if let Ok(cluster) = ClusterRecord::decode(&value) {
        let again = ClusterRecord::decode(&cluster.encode());
        let again = again.unwrap_or_else(|corrupt| panic!("{corrupt}"));
        assert_eq!(again.configuration(), cluster.configuration());
    }
    rewrite::<private::RegisterTicket>(&value);
    rewrite::<private::InitialOwner>(&value);
    rewrite::<private::Decommission>(&value);
    rewrite::<common::ClusterConfiguration>(&value);
    rewrite::<private::Node>(&value);
}

/// Known fields survive a rewrite, and a second rewrite changes nothing.
fn rewrite<M: Message + Name + Default + PartialEq + std::fmt::Debug>(value: &Bytes) {
    let Ok(message) = decode::<M>(b"/fuzzing", value) else {
        return;
    };
    let once = encode(&message, Some(value));
    let read = decode::<M>(b"/fuzzing", &once).unwrap_or_else(|corrupt| panic!("{corrupt}"));
    assert!(
        read == message,
        "a rewrite has changed what is known: {message:?} {read:?}"
    );
    assert_eq!(
        encode(&message, Some(&once)),
        once,
        "rewritten twice it is something else"
    );
}

/// Changes applied in any order leave the newest value of each key.
pub fn view(bytes: &[u8]) {
    let mut view = View::default();
    let mut newest = std::collections::BTreeMap::new();
    for (at, three) in bytes.chunks_exact(3).enumerate() {
        let key = Bytes::from(format!("/nodes/n{}", three[0] % 8));
        // Each revision changes a key once.
        let revision = Revision(i64::from(three[1]) * 10_000 + i64::try_from(at).unwrap_or(0) + 1);
        let put = three[2].is_multiple_of(2);
        if put {
            view.put(key.clone(), Bytes::from(vec![three[2]]), revision);
        } else {
            view.delete(&key, revision);
        }
        let known = newest.entry(key).or_insert((revision, put));
        if revision > known.0 {
            *known = (revision, put);
        }
    }
    for (key, (revision, put)) in newest {
        let entry = view.get(&key).map(|entry| entry.changed);
        assert_eq!(entry, put.then_some(revision), "{key:?}");
    }
}

/// Requests: decoding, and all checks that precede access to the state.
pub fn request(bytes: &[u8]) {
    let _ = curator_api::RegisterNodeRequest::decode(bytes);
    let _ = curator_api::WatchRequest::decode(bytes);
    if let Ok(request) = management_api::ConfigureClusterRequest::decode(bytes) {
        leader::merge(&request);
    }
    if let Ok(request) = management_api::UpdateNodeLabelsRequest::decode(bytes) {
        for pair in &request.upsert {
            let _ = validate::label_key(&pair.key).and_then(|()| validate::label_value(&pair.value));
        }
    }
    if let Ok(request) = curator_api::UpdateNodeClusterNetworkingRequest::decode(bytes) {
        let net = request.clusternet.unwrap_or_default();
        let _ = validate::wireguard_key(&net.wireguard_pubkey);
        for prefix in &net.prefixes {
            let _ = validate::cluster_network_prefix(&prefix.cidr, "192.0.2.1");
        }
    }
}

/// Text for a label, a domain name, a network or a key: accepted text can be stored.
pub fn text(text: &str) {
    if validate::label_key(text).is_ok() {
        assert!(text.is_ascii() && text.len() <= 253 + 1 + 63 && !text.ends_with('/'));
    }
    if validate::cluster_domain(text).is_ok() {
        assert!(text.len() <= 80 && !text.ends_with('.') && text.to_lowercase() == text);
    }
    if let Ok(cidr) = validate::cidr(text) {
        assert!(cidr.length <= if cidr.address.is_ipv4() { 32 } else { 128 });
        // A prefix within the cluster's network starts like it.
        if validate::cluster_network_prefix(text, "").is_ok() {
            let octets: std::net::Ipv4Addr = text
                .split('/')
                .next()
                .and_then(|address| address.parse().ok())
                .unwrap_or_else(|| panic!("{text} is no IPv4 prefix"));
            assert!(octets.octets()[0] == 10 && octets.octets()[1] & 0xe0 == 0xc0, "{text}");
        }
    }
    if let Ok(key) = validate::wireguard_key(text) {
        assert_eq!(key.len(), 44);
    }
    if let Ok(key) = NODES.key(text) {
        assert_eq!(NODES.id(&key), Some(text));
    }
}

/// A filter is compiled or refused, and evaluated or refused.
pub fn filter(text: &str) {
    leader::filter(text);
}

/// A filter from a grammar stays within its memory and time limits.
pub fn filter_by_grammar(tape: &[u8]) {
    leader::filter_by_grammar(tape);
}

/// Certificates, revocation lists and keys.
pub fn der(bytes: &[u8]) {
    let _ = curator_identity::is_crl(bytes);
    let key = curator_identity::public_key_of(bytes);
    assert!(key.is_none() || curator_identity::is_certificate(bytes));
    if let Ok(key) = curator_identity::PrivateKey::from_bytes(bytes) {
        assert_eq!(&key.to_bytes()[..], bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// Bytes that resemble a message: fields of all kinds with small numbers, some nested.
    fn message_like() -> impl Strategy<Value = Vec<u8>> {
        let leaf = proptest::collection::vec(any::<u8>(), 0..20);
        leaf.prop_recursive(3, 64, 6, |inner| {
            proptest::collection::vec((1_u32..12, any::<u16>(), prop::bool::ANY, inner), 0..6).prop_map(|fields| {
                let mut bytes = Vec::new();
                for (number, varint, nested, inner) in fields {
                    if nested {
                        prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
                        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
                        bytes.extend(inner);
                    } else {
                        prost::encoding::encode_varint(u64::from(number << 3), &mut bytes);
                        prost::encoding::encode_varint(varint.into(), &mut bytes);
                    }
                }
                bytes
            })
        })
    }

    fn filter_like() -> impl Strategy<Value = String> {
        let parts = prop::sample::select(vec![
            "node",
            ".",
            "state",
            "==",
            "NODE_STATE_UP",
            "(",
            ")",
            "!",
            "has(",
            "node.roles",
            "&&",
            "||",
            "1",
            "'a'",
            "[",
            "]",
            "{",
            "}",
            ":",
            "?",
            "in",
            "node.labels.pairs",
            ".all(x, ",
            ".exists(x, ",
            "x",
            "duration('6s')",
            "-",
            "+",
            "node.status",
            "null",
            "\"",
            "\\",
            "\u{0}",
            "ä",
            "<",
            ",",
        ]);
        proptest::collection::vec(parts, 0..30).prop_map(|parts| parts.concat())
    }

    /// A corpus of one seed; that nobody else in this process is measured with it, its bounds are wide enough for.
    #[test]
    fn filters_by_grammar() {
        let mut dice = StdRng::seed_from_u64(3);
        for _ in 0..20 {
            let mut tape = vec![0; 300];
            dice.fill_bytes(&mut tape);
            filter_by_grammar(&tape);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn stored_values(bytes in message_like(), noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [&bytes, &noise] {
                stored_node(bytes);
                stored_message(bytes);
                request(bytes);
                der(bytes);
            }
        }

        #[test]
        fn views(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            view(&bytes);
        }

        #[test]
        fn texts(
            any in ".{0,80}",
            like in "[a-zA-Z0-9./:_-]{0,70}",
            prefix in "10\\.[0-9]{1,3}\\.[0-9]{1,3}\\.0/[0-9]{1,2}"
        ) {
            for like in [&any, &like, &prefix] {
                text(like);
            }
        }

        #[test]
        fn filters(like in filter_like(), any in ".{0,60}") {
            filter(&like);
            filter(&any);
        }
    }
}
