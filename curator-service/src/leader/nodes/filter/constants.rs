//! Enum values by their fully qualified names, such as `metropolis.proto.common.NodeState.NODE_STATE_UP`: all enums
//! known to the descriptor of a node, as in the original.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use cel::common::ast::Expr;
use curator_proto::management_api::Node;
use prost::Name;
use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor};

/// The number of the enum value that an expression names with its fully qualified name, if it does.
pub(super) fn named(expression: &Expr) -> Option<i64> {
    static VALUES: LazyLock<HashMap<String, i64>> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(curator_proto::FILE_DESCRIPTOR_SET).ok();
        let node = pool.and_then(|pool| pool.get_message_by_name(&Node::full_name()));
        node.map(|node| values(&node.parent_file())).unwrap_or_default()
    });
    // Most selections start with the node.
    let name = match expression {
        Expr::Select(_) => name(expression)?,
        _ => return None,
    };
    VALUES.get(&name).copied()
}

/// The dotted name that an expression spells.
fn name(expression: &Expr) -> Option<String> {
    let (mut parts, mut rest) = (Vec::new(), expression);
    loop {
        match rest {
            Expr::Select(select) if !select.test => {
                parts.push(select.field.as_str());
                rest = &select.operand.expr;
            }
            Expr::Ident(root) => {
                parts.push(root);
                parts.reverse();
                return Some(parts.join("."));
            }
            _ => return None,
        }
    }
}

/// The enums of a file and its imports.
fn values(file: &FileDescriptor) -> HashMap<String, i64> {
    let (mut found, mut seen, mut files) = (HashMap::new(), HashSet::new(), vec![file.clone()]);
    while let Some(file) = files.pop() {
        if !seen.insert(file.name().to_owned()) {
            continue;
        }
        let mut enums: Vec<EnumDescriptor> = file.enums().collect();
        let mut messages: Vec<MessageDescriptor> = file.messages().collect();
        while let Some(message) = messages.pop() {
            enums.extend(message.child_enums());
            messages.extend(message.child_messages());
        }
        for each in &enums {
            let named = |value: &str| format!("{}.{value}", each.full_name());
            found.extend(each.values().map(|value| (named(value.name()), value.number().into())));
        }
        files.extend(file.dependencies());
    }
    found
}
