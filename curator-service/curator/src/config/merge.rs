//! The command line together with the file that it names: a flag is stronger than its variable, that than the file, and that than
//! the default.
//!
//! What the file says is put before the flags that were given, unless a flag or variable says the same thing, and all of it is then
//! taken as one command line. So what is required, and what excludes what, is said once, by clap, for all sources.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches};

use crate::Cli;
use crate::cli::serve::Serve;
use crate::config::file::{CONFIG, ConfigFile, Entry, FileError, Value, keys};

/// A command with all that it was told, and by whom.
pub(crate) struct Configured {
    pub(crate) cli: Cli,
    pub(crate) settings: Settings,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum NotConfigured {
    /// The arguments, by themselves or with what is in the file, which the notes name.
    Arguments {
        error: clap::Error,
        notes: Vec<String>,
    },
    File(FileError),
}

impl fmt::Display for NotConfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments { error, notes } => {
                let text = error.to_string();
                // The usage is for whoever has just typed the command.
                let what = text.split("\n\n").next().unwrap_or_default();
                f.write_str(what.strip_prefix("error: ").unwrap_or(what))?;
                notes.iter().try_for_each(|note| write!(f, "; {note}"))
            }
            Self::File(error) => error.fmt(f),
        }
    }
}

impl NotConfigured {
    /// Tells the user; help and version count as an answer, not a failure.
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

/// Who says a value.
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

/// One of the things that a command is told.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// As it would follow the flag; none if it is not said, and of a switch whether it is on.
    values: Vec<String>,
    /// What is the case if nobody says anything.
    otherwise: Option<String>,
    pub(crate) origin: Origin,
    pub(crate) is_list: bool,
    secret: bool,
}

impl Setting {
    /// Its values, without the secrets in them.
    pub(crate) fn shown(&self) -> Vec<String> {
        let hide = |value: &String| match self.secret {
            true => HIDDEN.to_owned(),
            false => without_password(value),
        };
        self.values.iter().map(hide).collect()
    }

    /// For people: what is in force, in words where it is not a value.
    pub(crate) fn text(&self) -> String {
        match (&self.values[..], &self.otherwise) {
            ([], Some(otherwise)) => format!("({otherwise})"),
            ([], None) => "-".to_owned(),
            _ => self.shown().join(","),
        }
    }
}

const HIDDEN: &str = "***";

/// A URL may have a password before its host.
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

/// All that a command is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// In the order of the flags.
    pub(crate) all: Vec<Setting>,
}

/// A setting that is another one than before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) name: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Settings {
    /// What is different in the later ones.
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

/// Reads a command line, and the file that it or a variable names.
pub(crate) fn configured(argv: &[OsString]) -> Result<Configured, NotConfigured> {
    // What is wrong with the line by itself is told first; what is missing may be in the file.
    let matches = match Cli::command().try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => Cli::command()
            .ignore_errors(true)
            .try_get_matches_from(argv)
            .map_err(alone)?,
        Err(error) => return Err(alone(error)),
    };
    let schema = Serve::augment_args(Command::new("serve"));
    let Innermost { words, said, known } = innermost(&matches);
    // clap panics, or answers for an argument that there is not, when asked for one that the command does not have.
    let config = known
        .contains(CONFIG)
        .then(|| said.get_one::<PathBuf>(CONFIG))
        .flatten();
    let file = match config {
        Some(path) => Some(ConfigFile::read(path, &schema).map_err(NotConfigured::File)?),
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
        let note = |(name, entry): (&&str, &&Entry)| format!("{name} is said in {}:{}", path.display(), entry.line);
        let notes = taken.iter().filter(|(name, _)| named(name)).map(note).collect();
        NotConfigured::Arguments { error, notes }
    };
    let matches = Cli::command().try_get_matches_from(&line).map_err(together)?;
    let settings = Settings {
        all: settings(&schema, &innermost(&matches), file.as_ref(), &taken),
        file: file.as_ref().map(|file| file.path.clone()),
    };
    let cli = Cli::from_arg_matches(&matches).map_err(alone)?;
    Ok(Configured { cli, settings })
}

fn alone(error: clap::Error) -> NotConfigured {
    NotConfigured::Arguments {
        error,
        notes: Vec::new(),
    }
}

/// The command that was named last.
struct Innermost<'a> {
    /// By how many words it was named.
    words: usize,
    said: &'a ArgMatches,
    /// The ids of its arguments. Asked of the schema: only a debug build of clap's `ArgMatches` knows them.
    known: BTreeSet<String>,
}

fn innermost(matches: &ArgMatches) -> Innermost<'_> {
    let (mut words, mut said, mut command) = (0, matches, Cli::command());
    while let Some((name, next)) = said.subcommand() {
        (words, said) = (words + 1, next);
        if let Some(found) = command.find_subcommand(name).cloned() {
            command = found;
        }
    }
    let known = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    Innermost { words, said, known }
}

/// What of a file counts for a command: what the command knows, and nobody stronger says.
fn taken<'a>(
    file: &'a ConfigFile,
    schema: &'a Command,
    said: &ArgMatches,
    known: &BTreeSet<String>,
) -> BTreeMap<&'a str, &'a Entry> {
    let counts = |(name, arg): &(&str, &Arg)| {
        let id = arg.get_id().as_str();
        // Another command may have no such flag.
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
            // Without a value it is not said what a switch is by default, or by its mere presence.
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
            // What says "no" in a file stands on no command line.
            (_, Some(entry), Some(file)) => file_origin(file, entry),
            _ => Origin::Default,
        };
        Some(Setting {
            name: name.to_owned(),
            values,
            otherwise: otherwise(arg),
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

/// What the help of a flag without a default value says of the case that it is not given.
fn otherwise(arg: &Arg) -> Option<String> {
    let help = arg.get_long_help().or(arg.get_help())?.to_string();
    let (_, rest) = help.split_once("[default: ")?;
    // The text may have brackets of its own, and ends with one and a full stop or with one alone.
    let (text, _) = rest.rsplit_once(']')?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

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

        fn read(&self, command: &[&str], flags: &[&str]) -> Result<Configured, NotConfigured> {
            let config = format!("--config={}", self.path.display());
            let words = ["curator"].iter().chain(command).copied();
            let words = words.chain([&*config]).chain(flags.iter().copied());
            configured(&words.map(OsString::from).collect::<Vec<_>>())
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
        assert_eq!(
            case.setting("hold-cap", &[]),
            pair("(the TTL and five seconds)", "default")
        );
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
            told.contains("cannot be used with") && told.contains("insecure-loopback-only is said in FILE:3"),
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
                changed("hold-cap", "(the TTL and five seconds)", "2s"),
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
            otherwise: None,
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
