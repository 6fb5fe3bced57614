//! `curator config`: checks and prints the configuration without starting an instance.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use crate::cli::serve::Serve;
use crate::config::merge::{Origin, Setting, Settings};

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Checks the configuration of `curator serve`: the file, the environment and the flags together. Files that it
    /// names are not read, and nothing is connected to.
    Check(Box<Check>),
    /// Prints each value and its origin: a flag, a variable, a line of the file, or the default. Secrets are hidden.
    Show(Box<Show>),
}

#[derive(Args)]
pub(crate) struct Check {
    #[command(flatten)]
    serve: Serve,
}

#[derive(Args)]
pub(crate) struct Show {
    #[command(flatten)]
    serve: Serve,

    /// Output format.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl ConfigCommand {
    /// Runs the command. The exit code tells whether the configuration is valid.
    pub(crate) fn run(&self, settings: &Settings) -> ExitCode {
        let (serve, output) = match self {
            Self::Check(check) => (&check.serve, None),
            Self::Show(show) => (&show.serve, Some(show.output)),
        };
        match output {
            None => {}
            Some(Output::Table) => println!("{}", table(settings)),
            Some(Output::Json) => println!("{:#}", data(settings)),
        }
        if let Err(error) = serve.check() {
            return super::usage_error(&*error, "serve");
        }
        if output.is_none() {
            match &settings.file {
                Some(path) => println!("valid: {}", path.display()),
                None => println!("valid, without a file; give one with --config or CURATOR_CONFIG"),
            }
        }
        ExitCode::SUCCESS
    }
}

fn table(settings: &Settings) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["KEY", "VALUE", "ORIGIN"]);
    for setting in &settings.all {
        table.add_row([setting.name.clone(), setting.text(), setting.origin.to_string()]);
    }
    let text = table.to_string();
    // Without the padding at both ends of a line.
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

fn data(settings: &Settings) -> Value {
    let each = settings.all.iter().map(|setting| {
        let (kind, at) = match &setting.origin {
            Origin::Default => ("default", json!({})),
            Origin::File { path, line } => ("file", json!({"path": path.display().to_string(), "line": line})),
            Origin::Variable(name) => ("env", json!({"name": name})),
            Origin::Flag(name) => ("flag", json!({"name": format!("--{name}")})),
        };
        let mut origin = at;
        origin["kind"] = kind.into();
        (setting.name.clone(), json!({"value": value(setting), "origin": origin}))
    });
    Value::Object(each.collect())
}

fn value(setting: &Setting) -> Value {
    let mut values = setting.shown();
    match (setting.is_list, values.pop()) {
        (true, last) => values.into_iter().chain(last).collect(),
        (false, last) => last.into(),
    }
}
