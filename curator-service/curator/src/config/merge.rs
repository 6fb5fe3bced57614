//! Merges the command line with the environment and the configuration file. Flags override variables, variables
//! override the file, and the file overrides the defaults.
//!
//! The keys of the file that no flag or variable sets are inserted before the given flags, and clap parses the result
//! as one command line. So required and conflicting flags are declared once, in clap, for all sources.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, FromArgMatches};

use crate::config::defaults;
use crate::config::file::{CONFIG, ConfigFile, Entry, FileError, Value, keys};

/// The command whose flags are the keys of the file.
const FILE_COMMAND: &str = "serve";

/// A parsed command line, with the value and origin of each setting.
pub(crate) struct ResolvedConfig<C> {
    pub(crate) cli: C,
    pub(crate) settings: Settings,
}

/// Why the configuration is rejected.
#[derive(Debug)]
pub(crate) enum ConfigError {
    /// Invalid arguments. The notes name the keys of the file that are involved.
    Arguments {
        error: clap::Error,
        notes: Vec<String>,
    },
    File(FileError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments { error, notes } => {
                let text = error.to_string();
                // Without the usage, which is for an interactive user.
                let what = text.split("\n\n").next().unwrap_or_default();
                f.write_str(what.strip_prefix("error: ").unwrap_or(what))?;
                notes.iter().try_for_each(|note| write!(f, "; {note}"))
            }
            Self::File(error) => error.fmt(f),
        }
    }
}

impl ConfigError {
    /// Prints the error and returns the exit code. Help and version are not failures.
    pub(crate) fn exit(self) -> ExitCode {
        match self {
            Self::Arguments { error, notes } => {
                let _ = error.print();
                for note in notes {
                    eprintln!("note: {note}");
                }
                u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
            }
            Self::File(error) => {
                for line in error.to_string().lines() {
                    eprintln!("error: {line}");
                }
                ExitCode::from(2)
            }
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Variable(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One setting of a command.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// The values as they would follow the flag; empty if it is not set. A switch has `true` or `false`.
    values: Vec<String>,
    /// The computed default, in words.
    default: Option<String>,
    pub(crate) origin: Origin,
    pub(crate) is_list: bool,
    secret: bool,
}

impl Setting {
    /// The values without secrets.
    pub(crate) fn shown(&self) -> Vec<String> {
        let hide = |value: &String| {
            if self.secret {
                HIDDEN.to_owned()
            } else {
                without_password(value)
            }
        };
        self.values.iter().map(hide).collect()
    }

    /// The effective value as text; a computed default in words.
    pub(crate) fn text(&self) -> String {
        match (&self.values[..], &self.default) {
            ([], Some(default)) => format!("({default})"),
            ([], None) => "-".to_owned(),
            _ => self.shown().join(","),
        }
    }
}

const HIDDEN: &str = "***";

/// Removes the password from a URL.
fn without_password(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return value.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{HIDDEN}@{host}{path}"),
        None => value.to_owned(),
    }
}

/// All settings of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The configuration file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// In the order of the flags.
    pub(crate) all: Vec<Setting>,
}

/// A changed setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) name: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Settings {
    /// The settings that differ in `later`.
    pub(crate) fn changed(&self, later: &Self) -> Vec<Changed> {
        let before: BTreeMap<&str, &Setting> = self.all.iter().map(|setting| (&*setting.name, setting)).collect();
        let changed = |now: &Setting| {
            let old = before.get(&*now.name)?;
            (old.values != now.values).then(|| Changed {
                name: now.name.clone(),
                from: old.text(),
                to: now.text(),
            })
        };
        later.all.iter().filter_map(changed).collect()
    }
}

/// Parses a command line, and merges the file that it or a variable names.
pub(crate) fn resolve<C: FromArgMatches>(
    argv: &[OsString],
    command: &Command,
) -> Result<ResolvedConfig<C>, ConfigError> {
    // Errors of the command line itself come first; a missing argument may be in the file.
    let matches = match command.clone().try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => command
            .clone()
            .ignore_errors(true)
            .try_get_matches_from(argv)
            .map_err(alone)?,
        Err(error) => return Err(alone(error)),
    };
    let schema = command.find_subcommand(FILE_COMMAND).cloned().unwrap_or_default();
    let Innermost { words, said, known } = innermost(&matches, command);
    // clap panics on an id that the command does not declare.
    let config = known
        .contains(CONFIG)
        .then(|| said.get_one::<PathBuf>(CONFIG))
        .flatten();
    let file = match config {
        Some(path) => Some(ConfigFile::read(path, &schema).map_err(ConfigError::File)?),
        None => None,
    };
    let taken = file
        .as_ref()
        .map(|file| taken(file, &schema, said, &known))
        .unwrap_or_default();
    let mut line: Vec<OsString> = argv.to_vec();
    let at = line.len().min(1 + words);
    line.splice(at..at, taken.iter().flat_map(|(name, entry)| flags(name, &entry.value)));
    let together = |error: clap::Error| {
        let text = error.to_string();
        let named = |name: &str| {
            text.split(|c: char| c != '-' && !c.is_ascii_alphanumeric())
                .any(|word| word.strip_prefix("--") == Some(name))
        };
        let path = file.as_ref().map(|file| file.path.as_path()).unwrap_or(Path::new(""));
        let note = |(name, entry): (&&str, &&Entry)| format!("{name} is set in {}:{}", path.display(), entry.line);
        let notes = taken.iter().filter(|(name, _)| named(name)).map(note).collect();
        ConfigError::Arguments { error, notes }
    };
    let matches = command.clone().try_get_matches_from(&line).map_err(together)?;
    let settings = Settings {
        all: settings(&schema, &innermost(&matches, command), file.as_ref(), &taken),
        file: file.as_ref().map(|file| file.path.clone()),
    };
    let cli = C::from_arg_matches(&matches).map_err(alone)?;
    Ok(ResolvedConfig { cli, settings })
}

fn alone(error: clap::Error) -> ConfigError {
    ConfigError::Arguments {
        error,
        notes: Vec::new(),
    }
}

/// The innermost subcommand.
struct Innermost<'a> {
    /// The number of words that select it.
    words: usize,
    said: &'a ArgMatches,
    /// The ids of its arguments, from the schema: `ArgMatches` knows them only in a debug build of clap.
    known: BTreeSet<String>,
}

fn innermost<'a>(matches: &'a ArgMatches, root: &Command) -> Innermost<'a> {
    let (mut words, mut said, mut command) = (0, matches, root);
    while let Some((name, next)) = said.subcommand() {
        (words, said) = (words + 1, next);
        if let Some(found) = command.find_subcommand(name) {
            command = found;
        }
    }
    let known = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    Innermost { words, said, known }
}

/// The keys of the file that apply to a command: it declares them, and no flag or variable overrides them.
fn taken<'a>(
    file: &'a ConfigFile,
    schema: &'a Command,
    said: &ArgMatches,
    known: &BTreeSet<String>,
) -> BTreeMap<&'a str, &'a Entry> {
    let counts = |(name, arg): &(&str, &Arg)| {
        let id = arg.get_id().as_str();
        // Not all commands declare all flags.
        known.contains(id)
            && !matches!(
                said.value_source(id),
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            )
            && file.entries.contains_key(*name)
    };
    keys(schema)
        .filter(counts)
        .map(|(name, _)| (name, &file.entries[name]))
        .collect()
}

fn flags(name: &str, value: &Value) -> Vec<OsString> {
    match value {
        Value::Switch(true) => vec![format!("--{name}").into()],
        Value::Switch(false) => Vec::new(),
        Value::Values(values) => values.iter().map(|value| format!("--{name}={value}").into()).collect(),
    }
}

fn settings(
    schema: &Command,
    command: &Innermost<'_>,
    file: Option<&ConfigFile>,
    taken: &BTreeMap<&str, &Entry>,
) -> Vec<Setting> {
    let setting = |(name, arg): (&str, &Arg)| {
        let id = arg.get_id().as_str();
        if !command.known.contains(id) {
            return None;
        }
        let said = command.said;
        let values: Vec<_> = said
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        let is_switch = !arg.get_action().takes_values();
        let values = match (is_switch, &values[..]) {
            // A switch has no raw value.
            (true, []) => vec![said.get_flag(id).to_string()],
            _ => values,
        };
        let origin = match (said.value_source(id), taken.get(name), file) {
            (Some(ValueSource::CommandLine), Some(entry), Some(file)) => file_origin(file, entry),
            (Some(ValueSource::CommandLine), ..) => Origin::Flag(name.to_owned()),
            (Some(ValueSource::EnvVariable), ..) => Origin::Variable(
                arg.get_env()
                    .map(OsStr::to_string_lossy)
                    .unwrap_or_default()
                    .into_owned(),
            ),
            // A switch that the file sets to false is not on the command line.
            (_, Some(entry), Some(file)) => file_origin(file, entry),
            _ => Origin::Default,
        };
        Some(Setting {
            name: name.to_owned(),
            values,
            default: defaults::computed(name),
            origin,
            is_list: matches!(arg.get_action(), clap::ArgAction::Append),
            secret: arg.is_hide_env_values_set(),
        })
    };
    keys(schema).filter_map(setting).collect()
}

fn file_origin(file: &ConfigFile, entry: &Entry) -> Origin {
    Origin::File {
        path: file.path.clone(),
        line: entry.line,
    }
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;
    use crate::cli::serve::Serve;
    use crate::cli::{self, Cli};

    struct Case {
        path: PathBuf,
    }

    impl Case {
        /// A file of this name with this text.
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("curator-{name}-{}.toml", std::process::id()));
            std::fs::write(&path, text).expect("a directory for scratch");
            Self { path }
        }

        fn read(&self, command: &[&str], flags: &[&str]) -> Result<ResolvedConfig<Cli>, ConfigError> {
            let config = format!("--config={}", self.path.display());
            let words = ["curator"].iter().chain(command).copied();
            let words = words.chain([&*config]).chain(flags.iter().copied());
            resolve(&words.map(OsString::from).collect::<Vec<_>>(), &cli::command())
        }

        fn setting(&self, name: &str, flags: &[&str]) -> (String, String) {
            let configured = self.read(&["serve"], flags).unwrap_or_else(|wrong| panic!("{wrong}"));
            let mut all = configured.settings.all.into_iter();
            let setting = all.find(|setting| setting.name == name).expect("a flag");
            let origin = setting.origin.to_string();
            (setting.text(), origin.replace(&self.path.display().to_string(), "FILE"))
        }

        fn wrong(&self, command: &str, flags: &[&str]) -> String {
            match self.read(&[command], flags) {
                Ok(_) => panic!("{command} {flags:?} is taken"),
                Err(wrong) => wrong.to_string().replace(&self.path.display().to_string(), "FILE"),
            }
        }
    }

    impl Drop for Case {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    const WHOLE: &str = "node-id = \"node-1\"\n\
                         etcd-endpoints = [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]\n\
                         insecure-loopback-only = true\n\
                         leader-ttl = \"5s\"\n\
                         supervised = false\n";

    fn pair(value: &str, origin: &str) -> (String, String) {
        (value.to_owned(), origin.to_owned())
    }

    #[test]
    fn a_file_may_say_all_that_is_required() {
        let case = Case::new("whole", WHOLE);
        assert_eq!(case.setting("node-id", &[]), pair("node-1", "file FILE:1"));
        assert_eq!(case.setting("leader-ttl", &[]), pair("5s", "file FILE:4"));
        assert_eq!(case.setting("insecure-loopback-only", &[]), pair("true", "file FILE:3"));
        assert_eq!(case.setting("supervised", &[]), pair("false", "file FILE:5"));
        assert_eq!(case.setting("grace", &[]), pair("5s", "default"));
        assert_eq!(case.setting("hold-cap", &[]), pair("(leader TTL + 5s)", "default"));
    }

    #[test]
    fn a_flag_is_stronger_than_the_file() {
        let case = Case::new("flag", WHOLE);
        assert_eq!(
            case.setting("leader-ttl", &["--leader-ttl", "7s"]),
            pair("7s", "flag --leader-ttl")
        );
        assert_eq!(
            case.setting("supervised", &["--supervised"]),
            pair("true", "flag --supervised")
        );
        // The default itself, but said.
        assert_eq!(
            case.setting("leader-ttl", &["--leader-ttl=10s"]),
            pair("10s", "flag --leader-ttl")
        );
    }

    #[test]
    fn the_stronger_of_two_lists_takes_the_others_place() {
        let case = Case::new("list", WHOLE);
        assert_eq!(
            case.setting("etcd-endpoints", &[]),
            pair("http://127.0.0.1:1,http://127.0.0.1:2", "file FILE:2")
        );
        assert_eq!(
            case.setting("etcd-endpoints", &["--etcd-endpoints=http://127.0.0.1:9"]),
            pair("http://127.0.0.1:9", "flag --etcd-endpoints")
        );
    }

    #[test]
    fn what_excludes_each_other_does_so_across_sources() {
        let case = Case::new("conflict", WHOLE);
        let told = case.wrong("serve", &["--credentials", "/nowhere"]);
        assert!(
            told.contains("cannot be used with") && told.contains("insecure-loopback-only is set in FILE:3"),
            "{told}"
        );
        let told = case.wrong("serve", &["--etcd-cert", "a.pem"]);
        assert!(told.contains("--etcd-key"), "{told}");
    }

    #[test]
    fn what_is_wrong_with_the_line_itself_is_told_as_without_a_file() {
        let case = Case::new("line", WHOLE);
        assert!(case.wrong("serve", &["--leader-ttl", "ten"]).contains("'ten'"));
        assert!(case.wrong("serve", &["--no-such-flag"]).contains("--no-such-flag"));
        let case = Case::new("line-unfinished", "leader-ttl = \"5s\"\n");
        let told = case.wrong("serve", &[]);
        assert!(told.contains("required") && told.contains("--node-id"), "{told}");
        assert!(case.wrong("serve", &["--leader-ttl", "ten"]).contains("'ten'"));
    }

    #[test]
    fn another_command_takes_what_it_knows() {
        let case = Case::new("release", &format!("{WHOLE}runtime-dir = \"/nowhere\"\n"));
        let configured = case.read(&["release"], &[]).unwrap_or_else(|wrong| panic!("{wrong}"));
        let names: Vec<_> = configured.settings.all.iter().map(|setting| &*setting.name).collect();
        assert!(
            names.contains(&"runtime-dir") && !names.contains(&"leader-ttl"),
            "{names:?}"
        );
        let whole = case.read(&["config", "show"], &["--leader-ttl=7s", "--output=json"]);
        assert!(whole.is_ok());
    }

    #[test]
    fn what_has_changed_is_found() {
        let case = Case::new("changed", WHOLE);
        let read = |flags: &[&str]| {
            let configured = case.read(&["serve"], flags).unwrap_or_else(|wrong| panic!("{wrong}"));
            configured.settings
        };
        let before = read(&[]);
        // Who says it makes no difference.
        assert_eq!(before.changed(&read(&["--leader-ttl=5s"])), []);
        let changed = |name: &str, from: &str, to: &str| Changed {
            name: name.into(),
            from: from.into(),
            to: to.into(),
        };
        assert_eq!(
            before.changed(&read(&["--grace=1s", "--hold-cap=2s"])),
            [
                changed("hold-cap", "(leader TTL + 5s)", "2s"),
                changed("grace", "5s", "1s")
            ]
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(without_password("http://user:p@ss@host:1/x"), "http://***@host:1/x");
        assert_eq!(without_password("http://host:1/a@b"), "http://host:1/a@b");
        let setting = Setting {
            name: "ticket".into(),
            values: vec!["0123".into()],
            default: None,
            origin: Origin::Default,
            is_list: false,
            secret: true,
        };
        assert_eq!(setting.text(), "***");
        // What is a secret by its name is marked as one, unless it says where the secret is.
        let schema = Serve::augment_args(Command::new("serve"));
        for (name, arg) in keys(&schema) {
            let secret = ["password", "secret", "ticket", "token"]
                .iter()
                .any(|word| name.contains(word));
            let where_it_is = name.ends_with("-file") || name.ends_with("-dir");
            assert!(!secret || where_it_is || arg.is_hide_env_values_set(), "{name}");
        }
    }

    #[test]
    fn each_key_has_a_variable() {
        let schema = Serve::augment_args(Command::new("serve"));
        for (name, arg) in keys(&schema) {
            assert!(arg.get_env().is_some(), "{name}");
        }
    }
}
