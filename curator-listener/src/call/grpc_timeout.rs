//! The `grpc-timeout` header: parsing and encoding.
//!
//! Source: the gRPC over HTTP/2 protocol, "Timeout": at most eight digits and a unit.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// The name of the header.
pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";
/// The maximum value of eight digits.
const MAX_VALUE: u128 = 99_999_999;
/// The units and their nanoseconds, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];
/// The maximum timeout. Longer timeouts are shortened to it, so that adding one to an instant cannot overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// The header cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed grpc-timeout: expected one to eight digits and a unit (H, M, S, m, u or n)")]
pub(crate) struct BadTimeout;

/// The timeout of the call, if the caller sets one.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, BadTimeout> {
    headers.get(GRPC_TIMEOUT).map(parse).transpose()
}

fn parse(value: &HeaderValue) -> Result<Duration, BadTimeout> {
    let (unit, digits) = value.as_bytes().split_last().ok_or(BadTimeout)?;
    if digits.is_empty() || digits.len() > 8 {
        return Err(BadTimeout);
    }
    let (_, nanoseconds) = UNITS.iter().find(|(name, _)| name == unit).ok_or(BadTimeout)?;
    let mut number = 0_u128;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(BadTimeout);
        }
        number = number * 10 + u128::from(digit - b'0');
    }
    let total = (number * nanoseconds).min(MAX_TIMEOUT.as_nanos());
    Ok(Duration::from_nanos(u64::try_from(total).unwrap_or(u64::MAX)))
}

/// Encodes a timeout in the finest unit that can hold it. Rounds down, so that the leader never gets more time than
/// is left.
pub(crate) fn write(left: Duration) -> HeaderValue {
    let nanoseconds = left.as_nanos();
    let (unit, each) = UNITS
        .into_iter()
        .find(|(_, each)| nanoseconds / each <= MAX_VALUE)
        .unwrap_or(UNITS[5]);
    // Eight digits and the unit.
    let mut text = [0_u8; 9];
    let mut number = (nanoseconds / each).min(MAX_VALUE);
    let mut at = text.len() - 1;
    text[at] = unit;
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&text[at..]).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Duration>, BadTimeout> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(text).unwrap());
        timeout(&headers)
    }

    #[test]
    fn each_unit_is_read() {
        for (text, nanoseconds) in [
            ("1n", 1),
            ("20u", 20_000),
            ("300m", 300_000_000),
            ("4S", 4_000_000_000),
            ("1M", 60_000_000_000),
            ("1H", 3_600_000_000_000),
            ("00000001S", 1_000_000_000),
        ] {
            assert_eq!(read(text), Ok(Some(Duration::from_nanos(nanoseconds))), "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        // Eight digits of hours can be written, but are longer than the maximum.
        assert_eq!(read("99999999H"), Ok(Some(MAX_TIMEOUT)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "123456789n",
            "1 S",
            "S1",
            "0x1S",
        ] {
            assert_eq!(read(text), Err(BadTimeout), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_never_more_and_hardly_less() {
        let mut nanoseconds = 1_u64;
        while nanoseconds < u64::MAX / 7 {
            let left = Duration::from_nanos(nanoseconds);
            let read = parse(&write(left)).unwrap();
            assert!(read <= left, "{left:?} became {read:?}");
            assert!(left - read <= left / 100_000, "{left:?} became {read:?}");
            nanoseconds = nanoseconds * 7 / 2 + 3;
            if left > Duration::from_secs(3_600 * 24 * 365) {
                break;
            }
        }
        assert_eq!(write(Duration::ZERO), "0n");
        assert_eq!(write(Duration::from_millis(1_500)), "1500000u");
    }
}
