//! W3C Trace Context: the trace of a call, taken from the caller and passed on.
//!
//! If no subscriber is interested in the spans, nothing is parsed or created, and the headers are passed on
//! unchanged.

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::field::{Empty, display};
use tracing::{Span, debug_span};

/// The target of the spans and events of calls.
pub(crate) const TARGET: &str = "curator::call";

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The maximum length of a path in the log. Paths of services are shorter.
const MAX_PATH_LENGTH: usize = 128;

/// The contents of a `traceparent`. Neither id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

/// Begins the span of a call, in the trace of the caller or in a new one, and sets it as the parent in the headers.
/// The span is disabled if no subscriber is interested.
pub(crate) fn begin(headers: &mut HeaderMap, path: &str) -> Span {
    let span = debug_span!(
        target: TARGET,
        "call",
        trace_id = Empty,
        span_id = Empty,
        parent_id = Empty,
        sampled = Empty,
        path = Empty,
        by = Empty,
        code = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    let parent = caller(headers);
    let trace_id = parent.map_or_else(|| rand::random_range(1..=u128::MAX), |parent| parent.trace_id);
    let span_id = rand::random_range(1..=u64::MAX);
    // A new trace is sampled.
    let sampled = parent.is_none_or(|parent| parent.sampled);
    span.record("trace_id", display(format_args!("{trace_id:032x}")));
    span.record("span_id", display(format_args!("{span_id:016x}")));
    if let Some(parent) = parent {
        span.record("parent_id", display(format_args!("{:016x}", parent.span_id)));
    } else {
        // It belongs to a parent that cannot be read.
        headers.remove(TRACESTATE);
    }
    span.record("sampled", sampled);
    span.record("path", shown(path));
    let own = TraceContext {
        trace_id,
        span_id,
        sampled,
    };
    if let Some(header) = own.to_header() {
        headers.insert(TRACEPARENT, header);
    }
    span
}

/// The span of the caller, if there is exactly one `traceparent` and it can be read.
fn caller(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let parent = TraceContext::read(values.next()?.as_bytes())?;
    values.next().is_none().then_some(parent)
}

/// A path for the log. gRPC paths consist of words, dots and slashes; other paths are not logged, because strangers
/// choose them.
fn shown(path: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_');
    if path.len() <= MAX_PATH_LENGTH && path.bytes().all(plain) {
        path
    } else {
        "(not a gRPC path)"
    }
}

impl TraceContext {
    /// Source: W3C Trace Context, section 3.2. A later version may append fields after a hyphen.
    fn read(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(55)?;
        let [v1, v2, b'-', rest @ ..] = known else { return None };
        let version = hex(&[*v1, *v2])?;
        match (version, more) {
            (0, []) => {}
            (0 | 0xff, _) => return None,
            (_, [] | [b'-', ..]) => {}
            _ => return None,
        }
        let (trace_id, rest) = rest.split_at_checked(32)?;
        let (span_id, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
        let flags = hex(rest.strip_prefix(b"-")?)?;
        let parent = Self {
            trace_id: hex(trace_id)?,
            span_id: u64::try_from(hex(span_id)?).ok()?,
            sampled: flags & 1 == 1,
        };
        (parent.trace_id != 0 && parent.span_id != 0).then_some(parent)
    }

    fn to_header(self) -> Option<HeaderValue> {
        let Self {
            trace_id,
            span_id,
            sampled,
        } = self;
        let text = format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(sampled));
        HeaderValue::try_from(text).ok()
    }
}

/// Parses lower-case hexadecimal digits, at most 32.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    const SAID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(text: &str) -> Option<TraceContext> {
        TraceContext::read(text.as_bytes())
    }

    #[test]
    fn a_traceparent_is_read_as_it_is_written() {
        let parent = read(SAID).expect("well formed");
        assert_eq!(parent.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.sampled);
        assert_eq!(parent.to_header().unwrap(), SAID);
        // Unknown flags are ignored.
        assert!(read(&SAID.replace("-01", "-fd")).unwrap().sampled);
        assert!(!read(&SAID.replace("-01", "-fe")).unwrap().sampled);
        // A later version.
        assert_eq!(read(&SAID.replacen("00", "cc", 1)), Some(parent));
        assert_eq!(
            read(&format!("{}-what-is-new", SAID.replacen("00", "cc", 1))),
            Some(parent)
        );
    }

    #[test]
    fn what_is_malformed_is_none() {
        for wrong in [
            String::new(),
            "00".into(),
            SAID[1..].into(),
            SAID[..54].into(),
            format!("{SAID}-more"),
            format!("{SAID}0"),
            format!("{}0", SAID.replacen("00", "cc", 1)),
            SAID.replacen("00", "ff", 1),
            SAID.replacen("00", "0x", 1),
            SAID.to_uppercase(),
            SAID.replace('-', "_"),
            SAID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            SAID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            SAID.replace("4bf9", "4bg9"),
            format!(" {SAID}"),
        ] {
            assert_eq!(read(&wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_is_too_much(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::read(&bytes);
        }

        #[test]
        fn what_is_written_is_read(trace_id in 1..=u128::MAX, span_id in 1..=u64::MAX, sampled: bool) {
            let parent = TraceContext { trace_id, span_id, sampled };
            prop_assert_eq!(TraceContext::read(parent.to_header().unwrap().as_bytes()), Some(parent));
        }
    }

    #[test]
    fn without_a_listener_the_headers_pass_as_they_came() {
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), || {
            for said in [SAID, "\u{1}rubbish".trim_start_matches('\u{1}'), ""] {
                let mut headers = HeaderMap::new();
                headers.insert(TRACEPARENT, HeaderValue::from_static(said));
                headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
                let before = headers.clone();
                assert!(begin(&mut headers, "/a.B/C").is_disabled());
                assert_eq!(headers, before);
            }
        });
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// The log output of a call with these headers and this path, and the headers afterwards.
    fn logged(said: &[&str], path: &str) -> (String, HeaderMap) {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        let mut headers = HeaderMap::new();
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=opaque"));
        for said in said {
            headers.append(TRACEPARENT, HeaderValue::from_str(said).unwrap());
        }
        tracing::subscriber::with_default(subscriber, || {
            let span = begin(&mut headers, path);
            span.in_scope(|| tracing::info!("in the call"));
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        (log, headers)
    }

    #[test]
    fn a_call_goes_on_in_the_callers_trace() {
        let (log, headers) = logged(&[SAID], "/a.B/C");
        for part in [
            "trace_id=4bf92f3577b34da6a3ce929d0e0e4736",
            "parent_id=00f067aa0ba902b7",
            "path=\"/a.B/C\"",
        ] {
            assert!(log.contains(part), "{part} in {log}");
        }
        let passed = caller(&headers).expect("one that can be read");
        assert_eq!(passed.trace_id, read(SAID).unwrap().trace_id);
        assert_ne!(passed.span_id, read(SAID).unwrap().span_id, "ours is the parent now");
        assert!(log.contains(&format!("span_id={:016x}", passed.span_id)));
        assert_eq!(headers[TRACESTATE], "vendor=opaque");
        let unsampled = SAID.replace("-01", "-00");
        assert!(!caller(&logged(&[&unsampled], "/a.B/C").1).unwrap().sampled);
    }

    #[test]
    fn what_cannot_be_read_is_not_logged_and_begins_a_new_trace() {
        let long = "a".repeat(60_000);
        let wrong = [
            &["x-secret-x"][..],
            &[&long],
            &[SAID, SAID],
            &[&SAID.to_uppercase()],
            &[],
        ];
        for said in wrong {
            let (log, headers) = logged(said, "/a.B/C");
            let passed = caller(&headers).expect("a new one");
            assert_ne!(passed.trace_id, read(SAID).unwrap().trace_id);
            assert!(log.contains(&format!("trace_id={:032x}", passed.trace_id)));
            assert!(log.len() < 400, "{log}");
            for said in said {
                assert!(!log.contains(said), "{said} in {log}");
            }
            assert!(!headers.contains_key(TRACESTATE), "it belongs to the old one");
        }
    }

    #[test]
    fn a_path_that_is_none_of_a_service_is_not_logged() {
        for path in ["/a.B/C?secret=1", &"/a".repeat(100), "/%0aINFO"] {
            let (log, _) = logged(&[SAID], path);
            assert!(log.contains("(not a gRPC path)") && !log.contains(path), "{log}");
        }
    }
}
