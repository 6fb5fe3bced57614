//! What is asked before something is done that cannot be taken back.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::failure::Failure;

/// Whether to ask, and whether to do it at all.
#[derive(clap::Args)]
pub(crate) struct Care {
    /// Do it without asking. Needed where there is no terminal to ask at.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Who must have said yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Somebody, at a terminal or with `--yes`.
    Always,
    /// Whoever sits at a terminal, if somebody does.
    AtTerminals,
    /// Nobody: it can be taken back.
    Never,
}

/// What is to become of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    Ahead,
    /// It was only to be said what would be done.
    NoFurther,
}

impl Care {
    /// Says what is about to be done, and asks whether it is meant. What is asked goes to standard error, so that what is printed stays
    /// what it is.
    pub(crate) fn ask(&self, asked: Asked, what: &str) -> Result<Go, Failure> {
        let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        self.decide(
            asked,
            what,
            terminal.then(|| io::stdin().lock()),
            &mut io::stderr().lock(),
        )
    }

    fn decide(
        &self,
        asked: Asked,
        what: &str,
        terminal: Option<impl BufRead>,
        to: &mut impl Write,
    ) -> Result<Go, Failure> {
        let cannot = |error: io::Error| Failure::failed(format!("the terminal cannot be used: {error}"));
        if self.dry_run {
            writeln!(to, "would {what}; nothing was done").map_err(cannot)?;
            return Ok(Go::NoFurther);
        }
        if self.yes || asked == Asked::Never {
            return Ok(Go::Ahead);
        }
        let Some(mut terminal) = terminal else {
            return match asked {
                Asked::AtTerminals | Asked::Never => Ok(Go::Ahead),
                Asked::Always => Err(Failure::usage(format!("this would {what}, and there is nobody to ask"))
                    .hint("say --yes if that is meant, or --dry-run")),
            };
        };
        write!(to, "This will {what}. Go on? [y/N] ").map_err(cannot)?;
        to.flush().map_err(cannot)?;
        let mut answer = String::new();
        terminal.read_line(&mut answer).map_err(cannot)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(Go::Ahead),
            _ => Err(Failure::failed("nothing was done")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(yes: bool, dry_run: bool, asked: Asked, answer: Option<&str>) -> (Result<Go, Failure>, String) {
        let mut said = Vec::new();
        let care = Care { yes, dry_run };
        let decided = care.decide(asked, "delete n", answer.map(str::as_bytes), &mut said);
        (decided, String::from_utf8(said).expect("text"))
    }

    #[test]
    fn at_a_terminal_it_is_asked_and_only_yes_is_yes() {
        for (answer, ahead) in [
            ("y\n", true),
            ("Yes\n", true),
            ("\n", false),
            ("", false),
            ("yesterday\n", false),
        ] {
            for asked in [Asked::Always, Asked::AtTerminals] {
                let (decided, said) = decided(false, false, asked, Some(answer));
                assert_eq!(decided.is_ok(), ahead, "{answer:?}");
                assert!(said.contains("This will delete n."), "{said}");
            }
        }
    }

    #[test]
    fn where_nobody_can_be_asked_it_is_not_done_unless_it_is_said() {
        assert!(decided(false, false, Asked::Always, None).0.is_err());
        assert_eq!(decided(true, false, Asked::Always, None).0, Ok(Go::Ahead));
        assert_eq!(decided(false, false, Asked::Never, Some("n\n")).0, Ok(Go::Ahead));
        assert_eq!(decided(false, false, Asked::AtTerminals, None).0, Ok(Go::Ahead));
    }

    #[test]
    fn a_dry_run_does_nothing_whatever_else_is_said() {
        let (decided, said) = decided(true, true, Asked::Always, Some("y\n"));
        assert_eq!(decided, Ok(Go::NoFurther));
        assert!(said.contains("would delete n"), "{said}");
    }
}
