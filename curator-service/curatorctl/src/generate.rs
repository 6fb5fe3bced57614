//! Shell completions and manual pages, generated from the command-line declaration.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;
use crate::error::Failure;
use crate::output::say;

#[derive(clap::Args)]
pub(crate) struct Completions {
    /// Shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "curatorctl", &mut text);
        say(String::from_utf8_lossy(&text).trim_end())
    }
}

#[derive(clap::Args)]
pub(crate) struct Man {
    /// Output directory: one page for each command.
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(error.to_string()).at(self.directory.display().to_string());
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        clap_mangen::generate_to(Cli::command(), &self.directory).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shells_get_completions() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "curatorctl", &mut text);
            assert!(String::from_utf8_lossy(&text).contains("step-down"), "{shell}");
        }
    }
}
