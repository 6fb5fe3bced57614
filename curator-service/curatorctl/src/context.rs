//! Contexts: saved flags for a cluster, and the file that holds them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Failure;
use crate::flags::Flags;
use crate::output::{Table, say};

/// The contents of the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The context that is used without --context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// The saved flags of a cluster. Private keys stay in their own files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Context {
    /// Addresses of instances, as host:port.
    pub(crate) endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// The nodes to accept as instances; if empty, any node that proves to be a consensus member.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) members: Vec<String>,
    /// Accept any node of the cluster as an instance.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) any_node: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) insecure_loopback_only: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Lists the contexts. A star marks the current one.
    List,
    /// Selects the current context.
    Use {
        /// Name of the context.
        name: String,
    },
    /// Creates or changes a context. Saves the given flags out of --endpoint, --ca, --member, --any-node, --cert,
    /// --key,
    /// --timeout and --insecure-loopback-only. The first context becomes the current one.
    Set {
        /// Name of the context.
        name: String,
    },
    /// Deletes a context.
    Delete {
        /// Name of the context.
        name: String,
    },
}

impl File {
    /// Reads the file. If it does not exist and --config is not given, there are no contexts.
    pub(crate) fn load(flags: &Flags) -> Result<Self, Failure> {
        let Some(path) = path(flags) else {
            return Ok(Self::default());
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && flags.config.is_none() => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Failure::usage(error.to_string()).at(path.display().to_string())),
        };
        toml::from_str(&text).map_err(|error| {
            Failure::usage(error.to_string().trim_end().to_owned())
                .at(path.display().to_string())
                .hint("correct the file, or remove it and run `curatorctl context set`")
        })
    }

    /// The selected context, or an empty one.
    pub(crate) fn chosen(mut self, flags: &Flags) -> Result<Context, Failure> {
        let Some(name) = flags.context.clone().or_else(|| self.current.take()) else {
            return Ok(Context::default());
        };
        let found = self.contexts.remove(&name);
        found.ok_or_else(|| self.no_context(&name))
    }

    fn no_context(&self, name: &str) -> Failure {
        let names: Vec<_> = self.contexts.keys().map(String::as_str).collect();
        let failure = Failure::not_found(format!("context {name:?} not found"));
        match names[..] {
            [] => failure.hint("create it with `curatorctl context set`"),
            _ => failure.hint(format!("existing contexts: {}", names.join(", "))),
        }
    }

    /// Saves the given flags in a context.
    fn set(&mut self, name: &str, flags: &Flags) -> Result<(), Failure> {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Failure::usage(format!(
                "invalid context name {name:?}: it must not be empty or contain white space"
            )));
        }
        let mut context = self.contexts.get(name).cloned().unwrap_or_default();
        if !flags.endpoint.is_empty() {
            context.endpoints.clone_from(&flags.endpoint);
        }
        if !flags.member.is_empty() {
            context.members.clone_from(&flags.member);
            context.any_node = false;
        }
        if flags.any_node {
            context.members.clear();
            context.any_node = true;
        }
        for (field, flag) in [
            (&mut context.ca, &flags.ca),
            (&mut context.certificate, &flags.cert),
            (&mut context.key, &flags.key),
        ] {
            if let Some(file) = flag {
                // The path must work from any directory.
                let absolute = std::path::absolute(file).map_err(|error| Failure::usage(error.to_string()))?;
                *field = Some(absolute);
                context.insecure_loopback_only = false;
            }
        }
        if flags.insecure_loopback_only {
            (context.ca, context.certificate, context.key) = (None, None, None);
            context.members.clear();
            context.any_node = false;
            context.insecure_loopback_only = true;
        }
        if let Some(timeout) = flags.timeout {
            context.timeout = Some(humantime::format_duration(timeout).to_string());
        }
        if context.endpoints.is_empty() {
            return Err(Failure::usage("a context needs an endpoint").hint("add --endpoint"));
        }
        self.contexts.insert(name.to_owned(), context);
        self.current.get_or_insert_with(|| name.to_owned());
        Ok(())
    }

    fn save(&self, flags: &Flags) -> Result<(), Failure> {
        let path = path(flags).ok_or_else(|| {
            Failure::failed("cannot locate the context file: neither XDG_CONFIG_HOME nor HOME is set")
                .hint("give it with --config")
        })?;
        let text = toml::to_string_pretty(self)
            .map_err(|error| Failure::failed(format!("cannot encode the contexts: {error}")))?;
        write(&path, &text).map_err(|error| Failure::failed(error.to_string()).at(path.display().to_string()))
    }
}

/// The same path with a suffix.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(end);
    path.with_file_name(name)
}

/// Locks the file against other processes that change it, until the returned file is dropped.
fn lock(path: &Path) -> io::Result<fs::File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(beside(path, ".lock"))?;
    file.lock()?;
    Ok(file)
}

/// Replaces the file atomically. The caller holds the lock.
fn write(path: &Path, text: &str) -> io::Result<()> {
    // A symbolic link stays; its target is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let partial = beside(&path, ".new");
    let mut file = fs::File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(partial, path)
}

/// The path of the file.
fn path(flags: &Flags) -> Option<PathBuf> {
    if let Some(path) = &flags.config {
        return Some(path.clone());
    }
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("curatorctl").join("config.toml"))
}

pub(crate) fn run(flags: &Flags, command: Command) -> Result<(), Failure> {
    let place = path(flags).filter(|_| !matches!(command, Command::List));
    let _lock = match &place {
        Some(place) => {
            Some(lock(place).map_err(|error| Failure::failed(error.to_string()).at(place.display().to_string()))?)
        }
        None => None,
    };
    // `set` creates a file that is given with --config and does not exist.
    let missing = flags.config.as_ref().is_some_and(|path| !path.exists());
    let mut file = match (&command, missing) {
        (Command::Set { .. }, true) => File::default(),
        _ => File::load(flags)?,
    };
    match command {
        Command::List => {
            let mut table = Table::new(&["CURRENT", "NAME", "ENDPOINTS"]);
            let mut data = Vec::new();
            for (name, context) in &file.contexts {
                let current = file.current.as_ref() == Some(name);
                let star = if current { "*" } else { "" };
                table.row([star.to_owned(), name.clone(), context.endpoints.join(",")]);
                data.push(json!({"name": name, "current": current, "endpoints": context.endpoints}));
            }
            return flags.output.print(&data.into(), &table);
        }
        Command::Use { name } => {
            if !file.contexts.contains_key(&name) {
                return Err(file.no_context(&name));
            }
            file.current = Some(name);
        }
        Command::Set { name } => file.set(&name, flags)?,
        Command::Delete { name } => {
            if file.contexts.remove(&name).is_none() {
                return Err(file.no_context(&name));
            }
            file.current.take_if(|current| *current == name);
        }
    }
    file.save(flags)?;
    match &file.current {
        Some(current) => say(&format!("current context: {current}")),
        None => say("no current context"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags {
            endpoint: vec!["192.0.2.1:7835".into()],
            ..Flags::default()
        }
    }

    #[test]
    fn a_context_is_made_and_changed_flag_by_flag() {
        let mut file = File::default();
        file.set("one", &flags()).expect("complete");
        file.set("two", &flags()).expect("complete");
        let tls = Flags {
            ca: Some("/etc/ca.pem".into()),
            timeout: Some(std::time::Duration::from_secs(90)),
            ..Flags::default()
        };
        file.set("one", &tls).expect("complete");
        let text = toml::to_string_pretty(&file).expect("text");
        assert_eq!(toml::from_str::<File>(&text).expect("TOML"), file, "{text}");
        assert_eq!(file.current.as_deref(), Some("one"), "the first one");
        let one = file.chosen(&Flags::default()).expect("there");
        assert_eq!(one.endpoints, ["192.0.2.1:7835"], "as it was");
        assert_eq!(
            (one.ca, one.timeout.as_deref()),
            (Some("/etc/ca.pem".into()), Some("1m 30s"))
        );
        assert!(File::default().set("x", &Flags::default()).is_err(), "no instance");
    }

    #[test]
    fn what_is_not_known_is_refused_and_named() {
        let wrong = toml::from_str::<File>("[contexts.a]\nendpoint = []\n").expect_err("a typing mistake");
        assert!(wrong.to_string().contains("endpoint"), "{wrong}");
        let mut file = File::default();
        file.set("one", &flags()).expect("complete");
        let other = Flags {
            context: Some("two".into()),
            ..Flags::default()
        };
        let failure = file.chosen(&other).expect_err("unknown context");
        assert!(failure.to_string().contains("existing contexts: one"), "{failure}");
        File::default().chosen(&Flags::default()).expect("none is needed");
    }
}
