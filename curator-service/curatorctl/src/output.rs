//! Output formats: tables for people, JSON and YAML for programs.

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table as Columns};
use serde_json::Value;

use crate::error::Failure;

/// Output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table that fits 80 columns.
    #[default]
    Table,
    /// A table with all columns.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// A table with a header row.
#[derive(Debug, Default)]
pub(crate) struct Table {
    head: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) const fn new(head: &'static [&'static str]) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds a row; an empty cell is printed as a dash.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let dash = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(dash).collect());
    }

    fn render(&self) -> String {
        let mut table = Columns::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.head);
        for row in &self.rows {
            table.add_row(row);
        }
        // Without the padding at both ends of a line.
        let lines: Vec<_> = table
            .lines()
            .map(|line| line.trim_end().get(1..).unwrap_or_default().to_owned())
            .collect();
        lines.join("\n")
    }
}

impl Format {
    /// Renders a result. The data are complete; the table may omit fields.
    pub(crate) fn render(self, data: &Value, table: &Table) -> Result<String, Failure> {
        match self {
            Self::Table | Self::Wide => Ok(table.render()),
            Self::Json => serde_json::to_string_pretty(data)
                .map_err(|error| Failure::failed(format!("cannot encode JSON: {error}"))),
            Self::Yaml => serde_saphyr::to_string(data)
                .map(|text| text.trim_end().to_owned())
                .map_err(|error| Failure::failed(format!("cannot encode YAML: {error}"))),
        }
    }

    /// Prints a result.
    pub(crate) fn print(self, data: &Value, table: &Table) -> Result<(), Failure> {
        say(&self.render(data, table)?)
    }

    /// Prints one item of a stream: a line of text or JSON, or a YAML document.
    pub(crate) fn print_one(self, data: &Value, text: &str) -> Result<(), Failure> {
        match self {
            Self::Table | Self::Wide => say(text),
            Self::Json => say(&data.to_string()),
            Self::Yaml => say(&format!("---\n{}", self.render(data, &Table::default())?)),
        }
    }
}

/// Prints a line on standard output. Exits if the reader closed the pipe, as `head` does.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| Failure::failed(format!("cannot write to standard output: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "ROLE"]);
        table.row(["node-1".to_owned(), "leader".to_owned()]);
        table.row(["n".to_owned(), String::new()]);
        table
    }

    #[test]
    fn tables_are_columns_and_nothing_else() {
        let text = Format::Table.render(&json!([]), &table()).expect("text");
        assert_eq!(text, "NAME    ROLE\nnode-1  leader\nn       -");
    }

    #[test]
    fn programs_get_all_of_it() {
        let data = json!([{"name": "node-1", "left": 1.5, "note": null, "labels": {"a": "yes", "b": "1"}}]);
        let text = Format::Json.render(&data, &table()).expect("text");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), data);
        let text = Format::Yaml.render(&data, &table()).expect("text");
        let read: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(read, data, "text that looks like something else stays text: {text}");
    }
}
