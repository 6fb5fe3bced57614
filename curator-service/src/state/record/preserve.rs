//! Keeps unknown fields when a stored message is replaced: fields of a newer version, or of another program.
//!
//! prost drops unknown fields. So the new message is laid over the stored one field by field, using the descriptors;
//! unknown fields of the stored message stay, also in nested messages. List elements have no identity: an element keeps
//! its unknown fields as long as its known fields are unchanged.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(curator_proto::FILE_DESCRIPTOR_SET).expect("the built-in descriptors are valid")
});

/// `encoded` with the unknown fields of `stored`.
pub(super) fn unknown_fields<M: Message + Name + Default>(stored: &[u8], encoded: Vec<u8>) -> Vec<u8> {
    // There are no unknown fields.
    if M::decode(stored).is_ok_and(|known| known.encode_to_vec() == stored) {
        return encoded;
    }
    let Some(descriptor) = POOL.get_message_by_name(&M::full_name()) else {
        return encoded;
    };
    let old = DynamicMessage::decode(descriptor.clone(), stored);
    let new = DynamicMessage::decode(descriptor, &encoded[..]);
    match (old, new) {
        (Ok(old), Ok(new)) => lay_over(old, new).encode_to_vec(),
        // A message that cannot be decoded has no fields to keep.
        _ => encoded,
    }
}

fn lay_over(mut old: DynamicMessage, new: DynamicMessage) -> DynamicMessage {
    for field in new.descriptor().fields() {
        if !new.has_field(&field) {
            old.clear_field(&field);
            continue;
        }
        let value = match (old.get_field(&field).into_owned(), new.get_field(&field).into_owned()) {
            (Value::Message(before), Value::Message(after)) if old.has_field(&field) => {
                Value::Message(lay_over(before, after))
            }
            (Value::List(before), Value::List(after)) => Value::List(lay_list_over(before, after)),
            (_, after) => after,
        };
        old.set_field(&field, value);
    }
    old
}

fn lay_list_over(mut before: Vec<Value>, after: Vec<Value>) -> Vec<Value> {
    let take_old = |new: Value| {
        let same = before.iter().position(|old| known(old.clone()) == new);
        same.map_or(new, |at| before.remove(at))
    };
    after.into_iter().map(take_old).collect()
}

/// A value without its unknown fields.
fn known(value: Value) -> Value {
    match value {
        Value::Message(mut message) => {
            let mut alone = DynamicMessage::new(message.descriptor());
            for (field, value) in message.take_fields() {
                alone.set_field(&field, known(value));
            }
            Value::Message(alone)
        }
        Value::List(values) => Value::List(values.into_iter().map(known).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use curator_proto::common::node_labels::Pair;
    use curator_proto::common::{NodeLabels, NodeRoles, NodeStatus, node_roles};
    use curator_proto::private::Node;

    use super::*;

    /// Field 200 with a string: unknown to all of ours.
    const UNKNOWN: &[u8] = &[0xc2, 0x0c, 0x03, b'n', b'e', b'w'];

    fn has_unknown(bytes: &[u8], times: usize) -> bool {
        bytes.windows(UNKNOWN.len()).filter(|window| *window == UNKNOWN).count() == times
    }

    /// Field `number` with these bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
    }

    #[test]
    fn unknown_fields_survive_at_each_level() {
        let pair = |key: &str, value: &str| Pair {
            key: key.into(),
            value: value.into(),
        };
        let worker = NodeRoles {
            kubernetes_worker: Some(node_roles::KubernetesWorker {}),
            ..NodeRoles::default()
        };
        let known_pair = field(1, &[pair("a", "1").encode_to_vec(), UNKNOWN.to_vec()].concat());
        let stored = [
            field(1, b"key"),
            field(4, &[worker.encode_to_vec(), UNKNOWN.to_vec()].concat()),
            field(9, &[known_pair, UNKNOWN.to_vec()].concat()),
            UNKNOWN.to_vec(),
        ]
        .concat();
        let mut node = Node::decode(&stored[..]).unwrap();
        assert_eq!(node.labels.as_ref().unwrap().pairs, [pair("a", "1")]);
        node.cluster_unlock_key = b"secret".to_vec();
        node.roles.as_mut().unwrap().kubernetes_worker = None;
        node.labels.as_mut().unwrap().pairs.push(pair("b", "2"));
        node.status = Some(NodeStatus::default());

        let rewritten = unknown_fields::<Node>(&stored, node.encode_to_vec());
        assert_eq!(Node::decode(&rewritten[..]).unwrap(), node);
        assert!(has_unknown(&rewritten, 4), "{rewritten:?}");
        // And once more.
        let again = unknown_fields::<Node>(&rewritten, node.encode_to_vec());
        assert_eq!(again, rewritten);
    }

    #[test]
    fn what_is_removed_is_gone() {
        let stored = field(9, &field(1, &[field(1, b"a"), UNKNOWN.to_vec()].concat()));
        let node = Node {
            labels: Some(NodeLabels::default()),
            ..Node::default()
        };
        let rewritten = unknown_fields::<Node>(&stored, node.encode_to_vec());
        assert!(has_unknown(&rewritten, 0));
        assert_eq!(Node::decode(&rewritten[..]).unwrap(), node);
    }

    #[test]
    fn garbage_is_replaced() {
        let node = Node {
            id: "a".into(),
            ..Node::default()
        };
        let encoded = node.encode_to_vec();
        assert_eq!(unknown_fields::<Node>(&[0xff, 0xff], encoded.clone()), encoded);
    }
}
