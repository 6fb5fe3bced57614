//! An upper bound for the encoded size of a request head.
//!
//! HPACK encodes frequent characters in few bits and arbitrary bytes in up to 30 bits each. A server closes the whole
//! connection when a head spans too many CONTINUATION frames, so heads that could get that large are not sent.
//! Source: RFC 7541, appendix B.

use http::HeaderMap;

/// The maximum encoded size, in bytes. With limits of 64 KiB, h2 uses seven frames of 16 KiB for one head.
const MAX_SIZE: usize = 96 << 10;
/// The overhead of each field: two lengths and the literal prefix.
const FIELD_OVERHEAD: usize = 12;

/// Whether a head with these fields and a path of this length can be sent.
pub(crate) fn fits(headers: &HeaderMap, path: usize) -> bool {
    // Fast path: most heads are small whatever their bytes are.
    let plain: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let fields = (headers.len() + 5) * FIELD_OVERHEAD;
    if (plain + path) * 4 + fields <= MAX_SIZE {
        return true;
    }
    let bits: usize = headers
        .iter()
        .map(|(name, value)| bits(name.as_str().as_bytes()) + bits(value.as_bytes()))
        .sum();
    bits / 8 + path * 4 + fields <= MAX_SIZE
}

fn bits(text: &[u8]) -> usize {
    text.iter().copied().map(max_bits).sum()
}

/// The maximum number of bits in the Huffman code of this byte.
const fn max_bits(byte: u8) -> usize {
    match byte {
        b'0'..=b'9'
        | b'a'..=b'z'
        | b'A'..=b'Z'
        | b' '
        | b'%'
        | b'-'
        | b'.'
        | b'/'
        | b':'
        | b'='
        | b'_'
        | b'&'
        | b'*'
        | b','
        | b';' => 8,
        b'"' | b'!' | b'(' | b')' | b'?' | b'\'' | b'+' | b'|' | b'#' | b'>' | b'$' | b'@' | b'[' | b']' | b'~'
        | b'^' | b'}' | b'<' | b'`' | b'{' => 15,
        b' '..=b'~' => 19,
        _ => 30,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(byte: u8, length: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-long", HeaderValue::from_bytes(&vec![byte; length]).unwrap());
        headers
    }

    #[test]
    fn text_fits_as_long_as_it_may_be_and_other_bytes_do_not() {
        for byte in [b'a', b'Z', b'='] {
            assert!(fits(&of(byte, 64 << 10), 100));
        }
        assert!(fits(&of(0xfe, 20 << 10), 100));
        for byte in [0xfe, b'\\', 0x80] {
            assert!(!fits(&of(byte, 50 << 10), 100), "{byte}");
        }
        assert!(!fits(&of(b'a', 10), 64 << 10), "the path counts");
    }

    /// Compares the bound with the encoder of h2, by the size of the frames that it writes.
    #[tokio::test]
    async fn no_code_is_longer_than_is_said() {
        for byte in (0x20..=0xff).filter(|byte| *byte != 0x7f) {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let (mut requests, driver) = h2::client::handshake(near).await.unwrap();
            let driving = tokio::spawn(driver);
            let mut request = http::Request::post("http://host/").body(()).unwrap();
            *request.headers_mut() = of(byte, 1_000);
            let _call = requests.send_request(request, true).unwrap();
            // Skip the connection preface and the SETTINGS frame.
            let mut read = vec![0; 24];
            tokio::io::AsyncReadExt::read_exact(&mut far, &mut read).await.unwrap();
            let length = loop {
                let mut head = [0; 9];
                tokio::io::AsyncReadExt::read_exact(&mut far, &mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                read.resize(length, 0);
                tokio::io::AsyncReadExt::read_exact(&mut far, &mut read).await.unwrap();
                if head[3] == 1 {
                    break length;
                }
            };
            driving.abort();
            assert!(
                length <= max_bits(byte) * 1_000 / 8 + 5 * FIELD_OVERHEAD,
                "{byte}: {length}"
            );
        }
    }
}
