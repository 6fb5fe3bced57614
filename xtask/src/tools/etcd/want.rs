//! What `--etcd` may say, and which versions it means.
use curator_harness::error::{Error, Result};

/// What `--etcd` takes, for messages and help.
pub const CHOICES: &str =
    "a series such as `3.4`, `3.5`, `3.6` or `3.7`, a version such as `3.5.1`, `oldest`, `newest`, `ends` or `all`";

/// Which etcd a command is to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Whatever is at hand.
    First,
    /// A certain series, such as `3.4`, or a certain version of it, such as `3.4.23`.
    Named(String),
    /// The oldest that is at hand or can be brought.
    Oldest,
    /// The newest that is at hand or can be brought.
    Newest,
    /// Those two.
    Ends,
    /// Each that is at hand or can be brought.
    All,
}

impl Want {
    /// Reads the value of `--etcd`.
    ///
    /// # Errors
    /// When it is not one of [`CHOICES`].
    pub fn read(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::First) };
        let numbers = text.split('.').collect::<Vec<_>>();
        let version = (2..=3).contains(&numbers.len())
            && numbers
                .iter()
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        match text {
            "all" => Ok(Self::All),
            "ends" => Ok(Self::Ends),
            "oldest" => Ok(Self::Oldest),
            "newest" => Ok(Self::Newest),
            _ if version => Ok(Self::Named(text.to_owned())),
            _ => Err(Error::usage(format!("`--etcd {text}` is unknown: give {CHOICES}"))),
        }
    }

    /// As [`Self::read`], for a command that uses one etcd.
    ///
    /// # Errors
    /// When it is not one of [`CHOICES`], or means several.
    pub fn read_one(text: Option<&str>) -> Result<Self> {
        match Self::read(text)? {
            Self::All | Self::Ends => Err(Error::usage(
                "this command uses one etcd: give `--etcd oldest`, `--etcd newest`, or a series such as `--etcd 3.4`",
            )),
            one => Ok(one),
        }
    }
}

/// One of those that a wish may mean.
pub(super) struct Choice<T> {
    pub(super) version: String,
    /// Whether it need not be brought.
    pub(super) here: bool,
    pub(super) what: T,
}

/// Those that the wish means, in the order in which they are to be used. `had` brings one if it can be brought.
pub(super) fn choose<T, U>(want: &Want, mut choices: Vec<Choice<T>>, had: impl FnMut(T) -> Option<U>) -> Vec<U> {
    match want {
        Want::First => choices.sort_by_key(|choice| !choice.here),
        Want::Named(named) => choices.retain(|choice| is_of(&choice.version, named)),
        Want::Oldest | Want::Newest | Want::Ends | Want::All => {
            choices.sort_by_key(|choice| order(&choice.version));
        }
    }
    let mut left = choices.into_iter().map(|choice| choice.what);
    let mut had = had;
    match want {
        Want::First | Want::Named(_) | Want::Oldest => left.find_map(had).into_iter().collect(),
        Want::Newest => left.rev().find_map(had).into_iter().collect(),
        Want::Ends => {
            let oldest = left.find_map(&mut had);
            oldest.into_iter().chain(left.rev().find_map(had)).collect()
        }
        Want::All => left.filter_map(had).collect(),
    }
}

/// Whether a version is of that series, or that version.
pub(super) fn is_of(version: &str, named: &str) -> bool {
    version
        .strip_prefix(named)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A version as numbers, to be compared. What is no number counts as zero.
pub(super) fn order(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_names_a_series_a_version_or_several() {
        let read = |text| Want::read(Some(text)).unwrap();
        assert_eq!(Want::read(None).unwrap(), Want::First);
        assert_eq!(read("all"), Want::All);
        assert_eq!(read("ends"), Want::Ends);
        assert_eq!(read("oldest"), Want::Oldest);
        assert_eq!(read("newest"), Want::Newest);
        assert_eq!(read("3.7"), Want::Named("3.7".to_owned()));
        assert_eq!(read("3.5.16"), Want::Named("3.5.16".to_owned()));
        for wrong in ["3", "3.", "three", "3.4.23.1", "3.4.x", ""] {
            assert!(Want::read(Some(wrong)).unwrap_err().is_usage(), "{wrong}");
        }
    }

    #[test]
    fn a_command_that_uses_one_refuses_several() {
        assert_eq!(Want::read_one(Some("newest")).unwrap(), Want::Newest);
        assert_eq!(Want::read_one(None).unwrap(), Want::First);
        for several in ["all", "ends"] {
            assert!(Want::read_one(Some(several)).unwrap_err().is_usage(), "{several}");
        }
    }

    /// What is chosen of these when those that begin with `-` cannot be had, and those with `+` are here.
    fn chosen(want: &Want, versions: &[&'static str]) -> Vec<&'static str> {
        let choices = versions
            .iter()
            .map(|version| Choice {
                version: version.trim_start_matches(['-', '+']).to_owned(),
                here: version.starts_with('+'),
                what: *version,
            })
            .collect();
        choose(want, choices, |what| (!what.starts_with('-')).then_some(what))
    }

    #[test]
    fn what_cannot_be_had_gives_way_to_the_next() {
        let versions = ["3.5.35", "3.5.1", "-3.4", "3.6.16", "-3.7.3"];
        assert_eq!(chosen(&Want::Oldest, &versions), ["3.5.1"]);
        assert_eq!(chosen(&Want::Newest, &versions), ["3.6.16"]);
        assert_eq!(chosen(&Want::Ends, &versions), ["3.5.1", "3.6.16"]);
        assert_eq!(chosen(&Want::All, &versions), ["3.5.1", "3.5.35", "3.6.16"]);
        assert_eq!(chosen(&Want::Ends, &["-3.4", "3.5.1"]), ["3.5.1"]);
        assert_eq!(chosen(&Want::All, &["-3.4"]), [""; 0]);
    }

    #[test]
    fn the_first_is_one_that_is_here_and_of_a_series_the_preferred_one() {
        assert_eq!(chosen(&Want::First, &["3.4", "+3.6.16", "+3.5.1"]), ["+3.6.16"]);
        assert_eq!(chosen(&Want::First, &["-3.4", "3.5.1"]), ["3.5.1"]);
        let named = |named: &str| chosen(&Want::Named(named.to_owned()), &["3.5.35", "+3.5.1", "-3.6.16"]);
        assert_eq!(named("3.5"), ["3.5.35"]);
        assert_eq!(named("3.5.1"), ["+3.5.1"]);
        assert_eq!(named("3.6"), [""; 0]);
    }

    #[test]
    fn a_series_holds_its_versions_and_no_others() {
        assert!(is_of("3.5.1", "3.5") && is_of("3.5.1", "3.5.1") && is_of("3.5", "3.5"));
        assert!(!is_of("3.5.16", "3.5.1") && !is_of("3.50.1", "3.5") && !is_of("3.4.23", "3.5"));
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(
            order("3.4.23") < order("3.5.1") && order("3.5.1") < order("3.5.16") && order("3.5.16") < order("3.10")
        );
    }
}
