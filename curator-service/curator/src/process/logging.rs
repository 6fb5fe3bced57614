//! The log of this process: where it goes, how its lines look, and the filter that chooses them, which may change at run time.

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

/// The variable that chooses what is logged, by the custom of programs that log as this one does.
pub(crate) const FILTER_VARIABLE: &str = "RUST_LOG";
/// The longest filter. Each event and span is held against it.
const LONGEST: usize = 4_096;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A filter that can be used.
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
        // Spaces within the values of fields mean something.
        let text = match text.contains('[') {
            true => text.trim().to_owned(),
            false => text.split(',').map(str::trim).collect::<Vec<_>>().join(","),
        };
        compile(&text)?;
        Ok(Self(text))
    }
}

const RIGHT: &str = "give a level (off, error, warn, info, debug or trace), or TARGET=LEVEL, or several with commas between them, such as \
                     info,curator_election=debug";

fn compile(text: &str) -> Result<EnvFilter, String> {
    if text.len() > LONGEST {
        return Err(format!("that is too long: at most {LONGEST} bytes"));
    }
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        // A lone word that is no level would be taken for a target, and a mistyped level so silence all the rest.
        let lone = !directive.contains(['=', '[', ']', '{', '}', '"']);
        let level = directive.eq_ignore_ascii_case("off") || directive.parse::<Level>().is_ok();
        if lone && !level {
            return Err(format!("{directive:?} is no level: {RIGHT}"));
        }
    }
    // Whoever gives a filter chooses no regular expression that each event would be held against.
    let builder = EnvFilter::builder().with_regex(false);
    // What a peer does wrong in HTTP/2 it can do as often as it likes, strangers too: nobody is warned of that who has not asked.
    let compiled = match text.contains("h2") || text.trim().eq_ignore_ascii_case("off") {
        true => builder.parse(text),
        false => builder.parse(format!("h2=error,{text}")),
    };
    compiled.map_err(|error| format!("{error}: {RIGHT}"))
}

/// What is below the log: where spans go, which the log's filter has no say in.
type Spans = Layered<Option<Box<dyn Layer<Registry> + Send + Sync>>, Registry>;

/// Changes what is logged.
pub(crate) struct LogHandle {
    handle: reload::Handle<EnvFilter, Spans>,
    current: Mutex<Filter>,
}

impl LogHandle {
    /// Logs by another filter from now on; the one that there was before.
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

/// Begins to log to standard error, and to make the spans that `traces` takes. To be called once.
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
        // Whoever reads the log may be gone before us; that must not end us, as its own complaint on standard error would.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let spans: Spans = tracing_subscriber::registry().with(traces.layer());
    Ok((spans.with(lines.with_filter(chosen)), handle))
}

/// The log of a command that ends by itself: for people, by the variable. What is no filter there counts as none.
pub(crate) fn init_plain() {
    let chosen = std::env::var(FILTER_VARIABLE).ok().and_then(|text| text.parse().ok());
    // The filter is one that has been compiled before.
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
        assert!("a=info,".repeat(LONGEST).parse::<Filter>().is_err());
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
