//! Confirmation of commands that cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::Failure;

/// The flags that skip the confirmation or the command itself.
#[derive(clap::Args)]
pub(crate) struct Confirm {
    /// Do not ask for confirmation. Required if there is no terminal.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Print what the command would do, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// When a command needs a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Required {
    /// Always: at a terminal or with `--yes`.
    Always,
    /// Only if there is a terminal.
    AtTerminals,
    /// Never: the command can be undone.
    Never,
}

/// Whether the command goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Proceed,
    /// It was a dry run.
    Stop,
}

impl Confirm {
    /// Describes the action and asks for confirmation, on standard error: standard output holds only results.
    pub(crate) fn ask(&self, asked: Required, what: &str) -> Result<Answer, Failure> {
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
        asked: Required,
        what: &str,
        terminal: Option<impl BufRead>,
        to: &mut impl Write,
    ) -> Result<Answer, Failure> {
        let cannot = |error: io::Error| Failure::failed(format!("cannot use the terminal: {error}"));
        if self.dry_run {
            writeln!(to, "dry run: would {what}").map_err(cannot)?;
            return Ok(Answer::Stop);
        }
        if self.yes || asked == Required::Never {
            return Ok(Answer::Proceed);
        }
        let Some(mut terminal) = terminal else {
            return match asked {
                Required::AtTerminals | Required::Never => Ok(Answer::Proceed),
                Required::Always => Err(
                    Failure::usage(format!("this would {what}; confirmation needs a terminal"))
                        .hint("give --yes to confirm, or --dry-run"),
                ),
            };
        };
        write!(to, "This will {what}. Continue? [y/N] ").map_err(cannot)?;
        to.flush().map_err(cannot)?;
        let mut answer = String::new();
        terminal.read_line(&mut answer).map_err(cannot)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(Answer::Proceed),
            _ => Err(Failure::failed("cancelled: nothing was changed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(yes: bool, dry_run: bool, asked: Required, answer: Option<&str>) -> (Result<Answer, Failure>, String) {
        let mut said = Vec::new();
        let confirm = Confirm { yes, dry_run };
        let decided = confirm.decide(asked, "delete n", answer.map(str::as_bytes), &mut said);
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
            for asked in [Required::Always, Required::AtTerminals] {
                let (decided, said) = decided(false, false, asked, Some(answer));
                assert_eq!(decided.is_ok(), ahead, "{answer:?}");
                assert!(said.contains("This will delete n."), "{said}");
            }
        }
    }

    #[test]
    fn where_nobody_can_be_asked_it_is_not_done_unless_it_is_said() {
        assert!(decided(false, false, Required::Always, None).0.is_err());
        assert_eq!(decided(true, false, Required::Always, None).0, Ok(Answer::Proceed));
        assert_eq!(
            decided(false, false, Required::Never, Some("n\n")).0,
            Ok(Answer::Proceed)
        );
        assert_eq!(
            decided(false, false, Required::AtTerminals, None).0,
            Ok(Answer::Proceed)
        );
    }

    #[test]
    fn a_dry_run_does_nothing_whatever_else_is_said() {
        let (decided, said) = decided(true, true, Required::Always, Some("y\n"));
        assert_eq!(decided, Ok(Answer::Stop));
        assert!(said.contains("would delete n"), "{said}");
    }
}
