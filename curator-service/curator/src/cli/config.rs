//! `curator config`: what an instance would be told, and whether that can be, without starting one.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use crate::cli::serve::Serve;
use crate::config::merge::{Origin, Setting, Settings};

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Says whether `curator serve` would take this configuration: the file, the environment and the flags together. The files that
    /// it names are not looked at, and nothing is connected to.
    Check(Box<Check>),
    /// Prints each value and who says it: a flag, a variable, a line of the file, or nobody. Without secrets.
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

    /// How it is printed.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl ConfigCommand {
    /// The exit code says whether the configuration can be used.
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
        if let Err(wrong) = serve.check() {
            return crate::wrong_arguments(&*wrong, "serve");
        }
        if output.is_none() {
            match &settings.file {
                Some(path) => println!("good: {}", path.display()),
                None => println!("good, without a file: name one with --config, or CURATOR_CONFIG"),
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
    // The gaps at both ends of a line say nothing.
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
