//! A small reader of command lines. It refuses what it does not know, and says what it does know.
use std::time::Duration;

use curator_harness::clock::parse_duration;

use curator_harness::error::{Error, Result};

/// The arguments of one command, from which its flags are taken one after the other.
#[derive(Debug)]
pub struct Args {
    command: &'static str,
    rest: Vec<String>,
    known: Vec<&'static str>,
}

impl Args {
    /// The arguments that followed `command`.
    pub fn new(command: &'static str, rest: Vec<String>) -> Self {
        Self {
            command,
            rest,
            known: Vec::new(),
        }
    }

    /// Takes `--flag VALUE` or `--flag=VALUE`.
    ///
    /// # Errors
    /// When the value is missing, or the flag was given twice.
    pub fn value(&mut self, flag: &'static str) -> Result<Option<String>> {
        self.known.push(flag);
        let mut found = None;
        while let Some(at) = self
            .rest
            .iter()
            .position(|a| a == flag || a.strip_prefix(flag).is_some_and(|r| r.starts_with('=')))
        {
            let value = match self.rest.remove(at).split_once('=') {
                Some((_, value)) => value.to_owned(),
                None if at < self.rest.len() && !self.rest[at].starts_with("--") => self.rest.remove(at),
                None => return Err(Error::usage(format!("`{flag}` of `{}` needs a value", self.command))),
            };
            if found.replace(value).is_some() {
                return Err(Error::usage(format!("`{flag}` was given twice to `{}`", self.command)));
            }
        }
        Ok(found)
    }

    /// Takes a flag without a value; whether it was there.
    pub fn flag(&mut self, flag: &'static str) -> bool {
        self.known.push(flag);
        let before = self.rest.len();
        self.rest.retain(|given| given != flag);
        self.rest.len() < before
    }

    /// Takes a flag whose value is a duration such as `500ms`, `5s` or `2m`.
    ///
    /// # Errors
    /// As [`Args::value`], and when the value is no duration.
    pub fn duration(&mut self, flag: &'static str) -> Result<Option<Duration>> {
        let Some(text) = self.value(flag)? else { return Ok(None) };
        parse_duration(&text).map(Some).ok_or_else(|| {
            Error::usage(format!(
                "`{flag} {text}` is no duration: give a number and a unit, such as `500ms`, `5s` or `2m`"
            ))
        })
    }

    /// Takes a flag whose value is a count of at least one.
    ///
    /// # Errors
    /// As [`Args::value`], and when the value is no such count.
    pub fn count(&mut self, flag: &'static str) -> Result<Option<u32>> {
        let Some(text) = self.value(flag)? else { return Ok(None) };
        match text.parse() {
            Ok(count) if count > 0 => Ok(Some(count)),
            _ => Err(Error::usage(format!(
                "`{flag} {text}` is no count: give a whole number from 1 up"
            ))),
        }
    }

    /// Takes `--flag`, which has no value; says whether it was given.
    ///
    /// # Errors
    /// When it was given twice.
    pub fn switch(&mut self, flag: &'static str) -> Result<bool> {
        self.known.push(flag);
        let before = self.rest.len();
        self.rest.retain(|word| word != flag);
        match before - self.rest.len() {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::usage(format!("`{flag}` was given twice to `{}`", self.command))),
        }
    }

    /// What is left, which may be at most `most` plain words. Call it last.
    ///
    /// # Errors
    /// When a flag is left that nobody asked for, or too many words.
    pub fn finish(self, most: usize) -> Result<Vec<String>> {
        let known = if self.known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", self.known.join(", "))
        };
        if let Some(flag) = self.rest.iter().find(|a| a.starts_with('-')) {
            return Err(Error::usage(format!(
                "unknown flag `{flag}` for `{}`: {known}",
                self.command
            )));
        }
        if let Some(extra) = self.rest.get(most) {
            let takes = if most == 0 {
                "no plain argument".to_owned()
            } else {
                format!("at most {most}")
            };
            return Err(Error::usage(format!(
                "unexpected argument `{extra}` for `{}`: it takes {takes}",
                self.command
            )));
        }
        Ok(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new("up", words.iter().map(|&w| w.to_owned()).collect())
    }

    #[test]
    fn both_spellings_of_a_value_are_taken() {
        let mut a = args(&["--ttl", "5s", "--etcd=3.5", "word"]);
        assert_eq!(a.duration("--ttl").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(a.value("--etcd").unwrap().as_deref(), Some("3.5"));
        assert_eq!(a.finish(1).unwrap(), ["word"]);
    }

    #[test]
    fn a_switch_is_there_or_not() {
        let mut a = args(&["--all", "word"]);
        assert!(a.switch("--all").unwrap());
        assert!(!a.switch("--none").unwrap());
        assert_eq!(a.finish(1).unwrap(), ["word"]);
        assert!(args(&["--all", "--all"]).switch("--all").unwrap_err().is_usage());
    }

    #[test]
    fn mistakes_say_what_is_right() {
        let mut a = args(&["--tll", "5s"]);
        assert_eq!(a.duration("--ttl").unwrap(), None);
        let error = a.finish(0).unwrap_err();
        assert!(error.is_usage());
        assert_eq!(error.to_string(), "unknown flag `--tll` for `up`: it has --ttl");

        assert!(args(&["--ttl"]).duration("--ttl").unwrap_err().is_usage());
        assert!(
            args(&["--ttl", "soon"])
                .duration("--ttl")
                .unwrap_err()
                .to_string()
                .contains("`5s`")
        );
        assert!(
            args(&["--ttl", "1s", "--ttl=2s"])
                .duration("--ttl")
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        assert!(args(&["--repeat", "0"]).count("--repeat").unwrap_err().is_usage());
        assert!(
            args(&["one", "two"])
                .finish(1)
                .unwrap_err()
                .to_string()
                .contains("`two`")
        );
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        for wrong in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
    }
}
