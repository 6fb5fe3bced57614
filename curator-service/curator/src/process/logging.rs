//! The log of this process: output, format, and the filter, which can change at run time.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use curator_service::LogFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

use crate::process::otlp::Traces;

/// The conventional variable of the log filter.
pub(crate) const FILTER_VARIABLE: &str = "RUST_LOG";
/// Maximum length of a filter, which is matched against each event and span.
const MAX_FILTER_BYTES: usize = 4_096;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// A valid filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter(String);

impl Filter {
    fn compile(&self) -> Result<EnvFilter, String> {
        compile(&self.0)
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Spaces in field values are significant.
        let text = match text.contains('[') {
            true => text.trim().to_owned(),
            false => text.split(',').map(str::trim).collect::<Vec<_>>().join(","),
        };
        compile(&text)?;
        Ok(Self(text))
    }
}

const EXPECTED: &str = "expected a level (off, error, warn, info, debug or trace), TARGET=LEVEL, or several of them \
                        separated by commas, such as info,curator_election=debug";

fn compile(text: &str) -> Result<EnvFilter, String> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(format!("too long: at most {MAX_FILTER_BYTES} bytes"));
    }
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        // tracing would take a single unknown word for a target, so that a mistyped level would silence all others.
        let lone = !directive.contains(['=', '[', ']', '{', '}', '"']);
        let level = directive.eq_ignore_ascii_case("off") || directive.parse::<Level>().is_ok();
        if lone && !level {
            return Err(format!("unknown level {directive:?}: {EXPECTED}"));
        }
    }
    // No regular expressions, which would be matched against each event.
    let builder = EnvFilter::builder().with_regex(false);
    // Any peer can cause HTTP/2 warnings at any rate, so they are logged only if the filter asks for them.
    let compiled = if text.contains("h2") || text.trim().eq_ignore_ascii_case("off") {
        builder.parse(text)
    } else {
        builder.parse(format!("h2=error,{text}"))
    };
    compiled.map_err(|error| format!("{error}: {EXPECTED}"))
}

/// The layers below the log: the export of spans, which the log filter does not affect.
type Spans = Layered<Option<Box<dyn Layer<Registry> + Send + Sync>>, Registry>;

/// Changes the log filter.
pub(crate) struct LogHandle {
    handle: reload::Handle<EnvFilter, Spans>,
    current: Mutex<Filter>,
}

impl LogHandle {
    /// Sets the filter; returns the previous one.
    pub(crate) fn change(&self, filter: &Filter) -> Result<Filter, String> {
        let compiled = filter.compile()?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(compiled).map_err(|error| error.to_string())?;
        Ok(std::mem::replace(&mut *current, filter.clone()))
    }

    pub(crate) fn filter(&self) -> Filter {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl LogFilter for LogHandle {
    fn current(&self) -> String {
        self.filter().to_string()
    }

    fn change(&self, filter: &str) -> Result<String, String> {
        let before = Self::change(self, &filter.parse()?)?;
        Ok(before.to_string())
    }
}

/// Starts logging to standard error, and recording the spans that `traces` exports. Call once.
pub(crate) fn init(format: LogFormat, filter: &Filter, traces: &Traces) -> Result<LogHandle, String> {
    let (subscriber, handle) = subscriber(format, filter, traces)?;
    subscriber.init();
    Ok(LogHandle {
        handle,
        current: Mutex::new(filter.clone()),
    })
}

fn subscriber(
    format: LogFormat,
    filter: &Filter,
    traces: &Traces,
) -> Result<(impl Subscriber + Send + Sync + use<>, reload::Handle<EnvFilter, Spans>), String> {
    let (chosen, handle) = reload::Layer::new(filter.compile()?);
    let lines = lines::layer()
        // The reader of standard error may be gone; reporting that on standard error would panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let spans: Spans = tracing_subscriber::registry().with(traces.layer());
    Ok((spans.with(lines.with_filter(chosen)), handle))
}

/// Starts the log of a command other than `serve`: text, with the filter of the variable. An invalid filter is ignored.
pub(crate) fn init_plain() {
    let chosen = std::env::var(FILTER_VARIABLE).ok().and_then(|text| text.parse().ok());
    // The filter was compiled before.
    let _ = init(LogFormat::Text, &chosen.unwrap_or_default(), &Traces::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused_with_what_is() {
        for good in [
            "info",
            "OFF",
            "warn,curator_election=debug",
            " debug , h2=off",
            "curator::role=info",
            "[call{method=Foo}]=trace",
            "",
        ] {
            assert!(good.parse::<Filter>().is_ok(), "{good:?}");
        }
        for bad in ["inof", "curator=loud", "info,=x", "curator_election", "info;debug"] {
            let refused = bad.parse::<Filter>().expect_err(bad);
            assert!(refused.contains("curator_election=debug"), "{bad:?}: {refused}");
        }
        assert!("a=info,".repeat(MAX_FILTER_BYTES).parse::<Filter>().is_err());
    }

    /// h2 warns of each connection that it ends for too many resets.
    #[test]
    fn strangers_write_no_warnings() {
        use tracing::subscriber::with_default;

        let warns = |filter: &str| {
            let logs = tracing_subscriber::registry().with(compile(filter).unwrap());
            with_default(
                logs,
                || tracing::enabled!(target: "h2::proto::streams::recv", tracing::Level::WARN),
            )
        };
        for quiet in ["info", "warn", "debug", "curator=info", "off", "error"] {
            assert!(!warns(quiet), "{quiet}");
        }
        assert!(warns("info,h2=warn"), "unless they are asked for");
    }

    /// What the log does not want is not made: each call would pay for it.
    #[test]
    fn as_a_rule_calls_have_no_spans() {
        use tracing::subscriber::with_default;

        let logs = |filter: &str| {
            let filter = filter.parse().unwrap();
            subscriber(LogFormat::Json, &filter, &Traces::default()).unwrap()
        };
        let span = || tracing::debug_span!(target: "curator::call", "call");
        let (info, handle) = logs("info");
        assert_eq!(info.max_level_hint(), Some(tracing::level_filters::LevelFilter::INFO));
        with_default(info, || {
            assert!(span().is_disabled());
            handle.reload(EnvFilter::new("info,curator::call=debug")).unwrap();
            assert!(!span().is_disabled());
            handle.reload(EnvFilter::new("info")).unwrap();
            assert!(span().is_disabled());
        });
        let (debug, _handle) = logs("info,curator::call=debug");
        with_default(debug, || assert!(!span().is_disabled()));
    }
}
