//! Parsing and printing of durations, hex digits and enum names.

use std::time::Duration;

use ring::digest::{SHA256, digest};

/// A duration with a unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let right = "give a number and a unit, such as 500ms, 10s or 2m";
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("the duration must be greater than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}: {right}")),
    }
}

/// A protobuf duration in seconds.
pub(crate) fn seconds(duration: Option<&prost_types::Duration>) -> Option<f64> {
    let duration = Duration::try_from(*duration?).ok()?;
    Some(duration.as_secs_f64())
}

/// A duration in at most two units.
pub(crate) fn for_people(seconds: f64) -> String {
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3_600 => format!("{minutes}m{}s", whole % 60),
        3_600..86_400 => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// The SHA-256 digest, in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes a key of 32 bytes from hex.
pub(crate) fn key_from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    (0..64)
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

/// The name of an enum value without its prefix: `NODE_STATE_UP` becomes `up`.
pub(crate) fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .to_ascii_lowercase()
        .replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1_500)));
        for bad in ["", "10", "s", "-1s", "0s", "1 fortnight"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [
            (0.25, "0.2s"),
            (59.9, "59.9s"),
            (61.0, "1m1s"),
            (7_260.0, "2h1m"),
            (90_000.0, "1d1h"),
        ] {
            assert_eq!(for_people(seconds), text);
        }
    }

    #[test]
    fn keys_are_64_hex_digits() {
        assert_eq!(key_from_hex(&"0f".repeat(32)), Some(vec![0x0f; 32]));
        assert_eq!(hex(&[0x0f, 0xa0]), "0fa0");
        for bad in ["", "0f", &"zz".repeat(32), &"ä".repeat(32)] {
            assert_eq!(key_from_hex(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn enums_are_named_without_their_type() {
        assert_eq!(short("NODE_STATE_UP", "NODE_STATE_"), "up");
        assert_eq!(short("HEALTH_HEARTBEAT_TIMEOUT", "HEALTH_"), "heartbeat-timeout");
    }
}
