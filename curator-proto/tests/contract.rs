//! Every fact of the wire contract against the descriptors, in both directions.

use std::collections::BTreeSet;

use curator_proto::FILE_DESCRIPTOR_SET;
use curator_proto::permission::{Authorization, Methods};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

#[test]
fn the_descriptors_are_the_contract() {
    let found = same(include_str!("wire_contract.txt"), |package| {
        !package.starts_with("curator.")
    });
    assert!(found > 390, "{found} facts");
}

/// What the original does not have: its clients and servers never see it.
#[test]
fn the_descriptors_of_our_own_services_are_as_written_down() {
    same(include_str!("admin_contract.txt"), |package| {
        package.starts_with("curator.")
    });
}

/// How many facts there are about the packages that are meant: those of `contract`, and no others.
fn same(contract: &str, meant: fn(&str) -> bool) -> usize {
    let expected: BTreeSet<String> = contract
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect();
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our own descriptors");
    let mut found = BTreeSet::new();
    let files = set.file.iter().filter(|file| !file.package().starts_with("google."));
    for file in files.filter(|file| meant(file.package())) {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        for message in &file.message_type {
            add_message(&mut found, file.package(), message.name(), message);
        }
        for each in &file.enum_type {
            add_enum(&mut found, file.package(), each.name(), each);
        }
        for service in &file.service {
            add_service(&mut found, file.package(), service);
        }
    }
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing: {missing:#?}\nsurplus: {surplus:#?}"
    );
    found.len()
}

fn add_message(found: &mut BTreeSet<String>, package: &str, name: &str, message: &DescriptorProto) {
    found.insert(format!("message {package}.{name}"));
    for field in &message.field {
        found.insert(format!(
            "field {package}.{name} {} {} {} {}",
            field.number(),
            field.name(),
            field_type(package, field),
            presence(message, field)
        ));
    }
    for nested in &message.nested_type {
        add_message(found, package, &format!("{name}.{}", nested.name()), nested);
    }
    for nested in &message.enum_type {
        add_enum(found, package, &format!("{name}.{}", nested.name()), nested);
    }
}

fn add_enum(found: &mut BTreeSet<String>, package: &str, name: &str, each: &EnumDescriptorProto) {
    for value in &each.value {
        found.insert(format!("enum {package}.{name} {} {}", value.name(), value.number()));
    }
}

fn add_service(found: &mut BTreeSet<String>, package: &str, service: &ServiceDescriptorProto) {
    for method in &service.method {
        let path = format!("/{package}.{}/{}", service.name(), method.name());
        let authorization = match Methods::of_curator().authorization(&path).expect(&path) {
            Authorization::Unauthenticated => "unauthenticated".to_owned(),
            Authorization::Authenticated { need } if need.is_empty() => "authenticated".to_owned(),
            Authorization::Authenticated { need } => {
                format!(
                    "need:{}",
                    need.iter()
                        .map(|permission| permission.as_str_name())
                        .collect::<Vec<_>>()
                        .join(",")
                )
            }
        };
        found.insert(format!(
            "rpc {package}.{}/{} {} {} {}{} {authorization}",
            service.name(),
            method.name(),
            local(package, method.input_type()),
            local(package, method.output_type()),
            if method.client_streaming() { 'c' } else { '-' },
            if method.server_streaming() { 's' } else { '-' },
        ));
    }
}

fn field_type(package: &str, field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::String => "string".into(),
        Type::Bytes => "bytes".into(),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Uint64 => "uint64".into(),
        Type::Message | Type::Enum => local(package, field.type_name()),
        other => panic!("the contract has no {other:?}"),
    }
}

/// A type name as the contract writes it: relative to its package, and shortened for the common messages.
fn local(package: &str, name: &str) -> String {
    let name = name.trim_start_matches('.');
    if let Some(relative) = name.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')) {
        return relative.to_owned();
    }
    match name.strip_prefix("metropolis.proto.common.") {
        Some(relative) => format!("common.{relative}"),
        None => name.to_owned(),
    }
}

fn presence(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    if field.label() == Label::Repeated {
        return "repeated".into();
    }
    if field.proto3_optional() {
        return "optional".into();
    }
    match field
        .oneof_index
        .and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?))
    {
        Some(oneof) => format!("oneof:{}", oneof.name()),
        None => "singular".into(),
    }
}
