//! What a command of `cargo xtask` is.

use curator_harness::error::Result;

use crate::args::Args;

/// One command of `cargo xtask`.
#[derive(Debug)]
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// One line for the list of commands.
    pub summary: &'static str,
    /// The usage line and what follows it in the command's own help.
    pub help: &'static str,
    /// Does it.
    pub run: fn(Args) -> Result<()>,
}
