//! All that was measured in one run: a table, a page with plots, and the part of `docs/performance.md` that is written
//! by this.
use std::fmt::Write as _;
use std::fs;

use curator_harness::checkout::{root, shown};
use curator_harness::error::{Context, Error, Result};
use curator_harness::step;

use super::comparison::Comparison;
use super::plot;

/// Between these, `docs/performance.md` has the newest summary.
const BEGIN: &str = "<!-- The summary: `cargo xtask bench` writes it. -->";
const END: &str = "<!-- The end of the summary. -->";

/// Writes all of it.
pub(super) fn write(all: &[Comparison], rounds: u32) -> Result<()> {
    let machine = machine();
    let table = table(all);
    let text = format!(
        "Measured on {machine}, everything on that one machine over loopback; {rounds} rounds, ours and the peers in turn in \
         one run. Medians, and in brackets the least and the most; ratios are of the same round where rounds have pairs.\n{table}"
    );
    step::say(&table);
    super::keep("summary.md", &format!("# What was measured\n\n{text}"))?;
    super::keep("summary.html", &plot::page(all, &machine))?;
    let docs = root().join("docs").join("performance.md");
    let old = fs::read_to_string(&docs).context(|| format!("cannot read {}", docs.display()))?;
    let new = replaced(&old, &text)?;
    fs::write(&docs, new).context(|| format!("cannot write {}", docs.display()))?;
    step::say(format_args!("summary in {}", shown(&docs)));
    Ok(())
}

fn replaced(old: &str, text: &str) -> Result<String> {
    let parts = old.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or_else(|| {
        Error::new(format!(
            "docs/performance.md has no place for the summary: add the lines `{BEGIN}` and `{END}`"
        ))
    })?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim()))
}

/// A table for each part.
fn table(all: &[Comparison]) -> String {
    let mut text = String::new();
    for part in parts(all) {
        let _ = write!(
            text,
            "\n### {part}\n\n| what | unit | ours | peer | the peer's | ours / the peer's | |\n|---|---|---|---|---|---|---|\n"
        );
        for comparison in all.iter().filter(|comparison| comparison.part == part) {
            let _ = writeln!(text, "{}", comparison.row());
        }
    }
    text
}

/// The parts in their order.
pub(super) fn parts(all: &[Comparison]) -> Vec<&str> {
    let mut parts: Vec<&str> = all.iter().map(|comparison| &comparison.part[..]).collect();
    parts.dedup();
    parts
}

/// What it was measured on, as far as the system tells.
fn machine() -> String {
    let of = |file: &str, field: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let model = of("/proc/cpuinfo", "model name").unwrap_or_else(|| "an unknown processor".into());
    let memory = of("/proc/meminfo", "MemTotal")
        .and_then(|total| total.split_whitespace().next()?.parse::<u64>().ok())
        .map_or("unknown".into(), |kib| format!("{} GiB", kib.div_ceil(1 << 20)));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: String = kernel
        .trim()
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    format!("{cores} cores ({model}), {memory} of memory, Linux {kernel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_takes_the_place_of_the_last_one() {
        let old = format!("# Performance\n\n{BEGIN}\nold\n{END}\n\nmore\n");
        let new = replaced(&old, "new\n").unwrap();
        assert_eq!(new, format!("# Performance\n\n{BEGIN}\n\nnew\n\n{END}\n\nmore\n"));
        assert_eq!(replaced(&new, "new").unwrap(), new);
        replaced("no place", "new").unwrap_err();
    }

    #[test]
    fn the_document_has_a_place_for_it() {
        let docs = fs::read_to_string(root().join("docs").join("performance.md")).unwrap();
        replaced(&docs, "new").unwrap();
    }
}
