//! How long the head of a call is on its way to the leader.
//!
//! HPACK codes text, in fewer bits the more usual a character is; what is no text becomes up to four times as long. A server ends
//! the whole connection if a head goes on over too many frames, so what may be that long is not sent. ReplayBody: RFC 7541,
//! appendix B.

use http::HeaderMap;

/// The most that is sent, in bytes. With limits of 64 KiB h2 takes seven frames of 16 KiB for one head.
const MAX_SIZE: usize = 96 << 10;
/// What is added to a name and a value: their lengths, and that they follow literally.
const FIELD_OVERHEAD: usize = 12;

/// Whether a head of these fields can be sent, beside a path of so many bytes.
pub(crate) fn fits(headers: &HeaderMap, path: usize) -> bool {
    // Most heads are far from it, whatever is in them.
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

/// As many bits as the code of this byte has at most.
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

    /// Against the coder itself, by the frames that it makes.
    #[tokio::test]
    async fn no_code_is_longer_than_is_said() {
        for byte in (0x20..=0xff).filter(|byte| *byte != 0x7f) {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let (mut requests, driver) = h2::client::handshake(near).await.unwrap();
            let driving = tokio::spawn(driver);
            let mut request = http::Request::post("http://host/").body(()).unwrap();
            *request.headers_mut() = of(byte, 1_000);
            let _call = requests.send_request(request, true).unwrap();
            // What the client sends first, and then the head.
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
