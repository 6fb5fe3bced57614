//! The configuration file: TOML, whose keys are the long flags of `curator serve`.
//!
//! The clap declaration of the flags is the schema: the keys, their types and their allowed values. All errors of a
//! file are reported together, each with its line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Maximum size of a file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Minimum similarity of a suggested key, from 0 to 1.
const MIN_SIMILARITY: f64 = 0.7;

/// The flag that names the file; not allowed as a key.
pub(crate) const CONFIG: &str = "config";

/// The contents of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    /// By key.
    pub(crate) entries: BTreeMap<String, Entry>,
}

/// One key of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The line, from 1.
    pub(crate) line: usize,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Switch(bool),
    /// The values as they would follow the flag.
    Values(Vec<String>),
}

/// Why a file is rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is larger than {MAX_FILE_BYTES} bytes", path.display())]
    Large { path: PathBuf },
    #[error("{}:{line}: invalid TOML: {reason}", path.display())]
    Syntax { path: PathBuf, line: usize, reason: String },
    /// Invalid keys; each is reported on a line of its own.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Keys(Vec<KeyError>),
}

/// An invalid key.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {key}: {reason}", path.display())]
pub(crate) struct KeyError {
    path: PathBuf,
    line: usize,
    key: String,
    reason: String,
}

/// The type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Switch,
    Number,
    Text,
    List,
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        let holds = arg.get_value_parser().type_id();
        let numbers = [
            std::any::TypeId::of::<u16>(),
            std::any::TypeId::of::<u32>(),
            std::any::TypeId::of::<u64>(),
            std::any::TypeId::of::<usize>(),
        ];
        match arg.get_action() {
            ArgAction::SetTrue => Self::Switch,
            ArgAction::Append => Self::List,
            _ if numbers.iter().any(|number| holds == *number) => Self::Number,
            _ => Self::Text,
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Switch => "true or false",
            Self::Number => "an integer without quotes",
            Self::Text => "a string in quotes",
            Self::List => "a string, or an array of strings, in quotes",
        }
    }

    fn take(self, value: &DeValue<'_>) -> Option<Value> {
        let text = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.to_string()),
            _ => None,
        };
        Some(match (self, value) {
            (Self::Switch, DeValue::Boolean(on)) => Value::Switch(*on),
            (Self::Number, DeValue::Integer(number)) => {
                let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
                Value::Values(vec![number.to_string()])
            }
            (Self::List, DeValue::Array(values)) => {
                let values: Option<_> = values.iter().map(|value| text(value.get_ref())).collect();
                Value::Values(values?)
            }
            (Self::Text | Self::List, value) => Value::Values(vec![text(value)?]),
            _ => return None,
        })
    }
}

/// The flags of a command that may stand in a file.
pub(crate) fn keys(schema: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    schema
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| Some((arg.get_long()?, arg)))
        .filter(|(name, _)| ![CONFIG, "help", "version"].contains(name))
}

impl ConfigFile {
    /// Reads a file whose keys are flags of this command.
    pub(crate) fn read(path: &Path, schema: &Command) -> Result<Self, FileError> {
        let cannot = |source| FileError::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        let file = File::open(path).map_err(cannot)?;
        file.take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(cannot)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
            return Err(FileError::Large { path: path.to_owned() });
        }
        Self::parse(path, &text, schema)
    }

    fn parse(path: &Path, text: &str, schema: &Command) -> Result<Self, FileError> {
        let table = DeTable::parse(text).map_err(|error| FileError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            reason: error.message().trim().to_owned(),
        })?;
        let known: BTreeMap<&str, &Arg> = keys(schema).collect();
        let (mut entries, mut wrong) = (BTreeMap::new(), Vec::new());
        for (key, value) in table.get_ref() {
            let line = line_of(text, key.span().start);
            match take(key.get_ref(), value, &known) {
                Ok(value) => {
                    entries.insert(key.get_ref().to_string(), Entry { line, value });
                }
                Err(reason) => wrong.push(KeyError {
                    path: path.to_owned(),
                    line,
                    key: key.get_ref().to_string(),
                    reason,
                }),
            }
        }
        if !wrong.is_empty() {
            wrong.sort_by_key(|error| error.line);
            return Err(FileError::Keys(wrong));
        }
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }
}

/// The value of a key, or why it is rejected.
fn take(key: &str, value: &Spanned<DeValue<'_>>, known: &BTreeMap<&str, &Arg>) -> Result<Value, String> {
    let value = value.get_ref();
    let Some(arg) = known.get(key) else {
        return Err(unknown(key, value, known));
    };
    let kind = Kind::of(arg);
    let taken = kind
        .take(value)
        .ok_or_else(|| format!("expected {}, got {}", kind.expected(), type_name(value)))?;
    if let Value::Values(values) = &taken {
        values.iter().try_for_each(|value| check(arg, value))?;
    }
    Ok(taken)
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn unknown(key: &str, value: &DeValue<'_>, known: &BTreeMap<&str, &Arg>) -> String {
    if matches!(value, DeValue::Table(_)) {
        return "tables are not supported: all keys are at the top level".to_owned();
    }
    if key == CONFIG {
        return "a configuration file cannot include another one".to_owned();
    }
    let alike = |name: &&str| strsim::jaro_winkler(&key.to_lowercase().replace('_', "-"), name);
    let nearest = known.keys().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match nearest.filter(|name| alike(name) >= MIN_SIMILARITY) {
        Some(name) => format!("unknown key: did you mean {name}?"),
        None => "unknown key: the keys are the long flags of `curator serve --help`".to_owned(),
    }
}

/// Checks a value with the parser of the flag.
fn check(arg: &Arg, value: &str) -> Result<(), String> {
    let mut alone = Arg::new("value")
        .long("value")
        .action(ArgAction::Append)
        .value_parser(arg.get_value_parser().clone());
    if let Some(delimiter) = arg.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let command = Command::new("alone").no_binary_name(true).arg(alone);
    let Err(error) = command.try_get_matches_from([format!("--value={value}")]) else {
        return Ok(());
    };
    let reason = match (std::error::Error::source(&error), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            format!("expected one of {}", valid.join(", "))
        }
        (None, _) => "invalid value".to_owned(),
    };
    if arg.is_hide_env_values_set() {
        Err(reason)
    } else {
        Err(format!("{value:?}: {reason}"))
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;
    use crate::cli::serve::Serve;

    fn parse(text: &str) -> Result<ConfigFile, FileError> {
        let schema = Serve::augment_args(Command::new("serve"));
        ConfigFile::parse(Path::new("curator.toml"), text, &schema)
    }

    fn wrong(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn values_of_each_type_are_taken() {
        let file = parse(
            "# The cluster.\n\
             etcd-endpoints = [\n  \"http://127.0.0.1:1\",\n  \"http://127.0.0.1:2\",\n]\n\
             leader-ttl = \"5s\"\n\
             listen = \"127.0.0.1:7835,[::1]:7835\"\n\
             max-connections = 0x10\n\
             supervised = false\n\
             observe = 'off'\n",
        )
        .expect("good");
        let values = |key: &str| match &file.entries[key].value {
            Value::Values(values) => values.clone(),
            Value::Switch(on) => panic!("{on}"),
        };
        assert_eq!(values("etcd-endpoints"), ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        assert_eq!(values("max-connections"), ["16"]);
        assert_eq!(values("listen"), ["127.0.0.1:7835,[::1]:7835"]);
        assert_eq!(file.entries["supervised"].value, Value::Switch(false));
        assert_eq!(
            (file.entries["etcd-endpoints"].line, file.entries["leader-ttl"].line),
            (2, 6)
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_what_it_may_have_meant() {
        for (key, meant) in [
            ("leader_ttl", "leader-ttl"),
            ("leadr-ttl", "leader-ttl"),
            ("etcd-endpoint", "etcd-endpoints"),
            ("Listen", "listen"),
            ("max-connection", "max-connections"),
        ] {
            let told = wrong(&format!("\n\n{key} = \"x\"\n"));
            assert!(
                told.contains(&format!("curator.toml:3: {key}: ")) && told.ends_with(&format!("did you mean {meant}?")),
                "{told}"
            );
        }
        assert!(wrong("zzz = 1").contains("`curator serve --help`"));
        assert!(wrong("[leader]\nttl = \"5s\"").contains("tables are not supported"));
        assert!(wrong("config = \"other.toml\"").contains("cannot include another"));
        // Internal: the supervisor gives it to its instance.
        assert!(wrong("report-leases = true").contains("unknown key"));
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_the_right_one() {
        for (text, right) in [
            ("supervised = \"yes\"", "expected true or false, got a string"),
            ("max-connections = \"20\"", "expected an integer"),
            ("max-connections = 1.5", "a floating-point number"),
            ("leader-ttl = 5", "expected a string in quotes, got a number"),
            ("listen = [7835]", "an array of strings"),
            ("node-id = [\"a\"]", "expected a string in quotes, got an array"),
        ] {
            let told = wrong(text);
            assert!(told.contains(right), "{text}: {told}");
        }
    }

    #[test]
    fn what_the_flag_refuses_the_file_may_not_say_either() {
        for (text, right) in [
            ("leader-ttl = \"5\"", "\"5\": missing unit"),
            ("max-connections = 0", "0 is not in 1.."),
            ("threads = -1", "-1 is not in"),
            ("listen = [\"127.0.0.1:1\", \"everywhere\"]", "such as 127.0.0.1:7835"),
            ("log-format = \"xml\"", "expected one of text, json"),
            ("log-filter = \"curator=loud\"", "expected a level"),
            ("credentials = \"\"", "invalid value"),
        ] {
            let told = wrong(text);
            assert!(told.contains(right), "{text}: {told}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_in_the_order_of_lines() {
        let told = wrong("zeta = 1\nnode-id = \"a\"\nleader-ttl = 5\nalpha = 1\n");
        let lines: Vec<_> = told
            .lines()
            .map(|line| line.split(": ").next().unwrap_or_default())
            .collect();
        assert_eq!(lines, ["curator.toml:1", "curator.toml:3", "curator.toml:4"]);
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let told = wrong("node-id = \"a\"\nleader-ttl = 5s\n");
        assert!(told.starts_with("curator.toml:2: invalid TOML: "), "{told}");
        let told = wrong("node-id = \"a\"\nnode-id = \"b\"\n");
        assert!(
            told.starts_with("curator.toml:2: ") && told.contains("duplicate"),
            "{told}"
        );
    }
}
