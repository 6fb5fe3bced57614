//! Node labels: the rules of Kubernetes, with lower-case prefixes.

use crate::validate::Invalid;
use crate::validate::names::domain;

/// Maximum number of labels of a node.
pub(crate) const MAX_LABELS: usize = 128;
const MAX_NAME_BYTES: usize = 63;

/// `name`, or `prefix/name` where the prefix is a domain name.
pub(crate) fn label_key(key: &str) -> Result<(), Invalid> {
    let invalid = |reason: &str| Invalid::new(format!("label key {:?}", shown(key)), reason);
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        domain(prefix).map_err(|reason| invalid(&format!("prefix is not a domain name: {reason}")))?;
    }
    name_of_label(name).map_err(invalid)
}

/// Empty, or a name.
pub(crate) fn label_value(value: &str) -> Result<(), Invalid> {
    if value.is_empty() {
        return Ok(());
    }
    name_of_label(value).map_err(|reason| Invalid::new(format!("label value {:?}", shown(value)), reason))
}

fn name_of_label(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("name must not be empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("name must be at most 63 bytes");
    }
    if !name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) {
        return Err("name may contain only letters, digits, '-', '_' and '.'");
    }
    if [name.bytes().next(), name.bytes().last()]
        .into_iter()
        .flatten()
        .any(|c| !c.is_ascii_alphanumeric())
    {
        return Err("name must begin and end with a letter or digit");
    }
    Ok(())
}

/// The text, truncated for an error message.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let longest = "x".repeat(63);
        let long_prefix = format!("{}.{}.{}.{}/a", longest, longest, longest, "x".repeat(61));
        for good in [
            "foo",
            "foo-bar.baz_barfoo",
            "example.com/annotation",
            "a",
            "A9",
            &longest,
            &long_prefix,
        ] {
            label_key(good).expect(good);
        }
        let long = "x".repeat(64);
        for bad in [
            "",
            "-",
            "-invalid",
            "invalid-",
            &long,
            "example.com/",
            "/annotation",
            "_internal.example.com/a",
            "./a",
            "tcp:80.example.com/a",
            "80/a",
            "a.com/b/c",
            "Example.com/a",
            "a b",
            "ä",
        ] {
            label_key(bad).expect_err(bad);
        }
    }

    #[test]
    fn values() {
        for good in ["", "a", "a.b-c_d"] {
            label_value(good).expect(good);
        }
        for bad in ["-", "a/b", " ", &"x".repeat(64)] {
            label_value(bad).expect_err(bad);
        }
    }
}
